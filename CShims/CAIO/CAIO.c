#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENT_BATCH 256

static bool grow_done(struct caio *engine, uint32_t capacity) {
  struct caio_completion *larger = calloc(capacity, sizeof *larger);
  if (larger == NULL) {
    return false;
  }
  for (uint32_t index = 0; index < engine->done_count; index++) {
    larger[index] = engine->done[(engine->done_head + index) % engine->done_capacity];
  }
  free(engine->done);
  engine->done = larger;
  engine->done_capacity = capacity;
  engine->done_head = 0;
  return true;
}

/* There is room: each queued operation was counted when it was taken. */
static void complete(struct caio *engine, uint64_t tag, int32_t result) {
  uint32_t place = (engine->done_head + engine->done_count) % engine->done_capacity;
  engine->done[place] = (struct caio_completion){.tag = tag, .result = result, .flags = 0};
  engine->done_count++;
}

static bool grow_sockets(struct caio *engine, int fd) {
  uint32_t count = engine->socket_count == 0 ? 64 : engine->socket_count;
  while (count <= (uint32_t)fd) {
    count *= 2;
  }
  struct socket_state *sockets = realloc(engine->sockets, count * sizeof *sockets);
  if (sockets == NULL) {
    return false;
  }
  memset(sockets + engine->socket_count, 0, (count - engine->socket_count) * sizeof *sockets);
  engine->sockets = sockets;
  struct try *tries = realloc(engine->tries, 2 * count * sizeof *tries);
  if (tries == NULL) {
    return false;
  }
  engine->tries = tries;
  /* Each disk operation, each direction of each socket and a cancel of it can be done at a time. */
  if (!grow_done(engine, engine->operation_count + 4 * count)) {
    return false;
  }
  engine->socket_count = count;
  return true;
}

static void release(struct caio *engine) {
  if (engine->context != NULL) {
    io_destroy(engine->context);
  }
  if (engine->epoll >= 0) {
    close(engine->epoll);
  }
  if (engine->wake >= 0) {
    close(engine->wake);
  }
  free(engine->operations);
  free(engine->batch);
  free(engine->events);
  free(engine->sockets);
  free(engine->tries);
  free(engine->done);
  free(engine);
}

static int set_up(struct caio *engine) {
  /* The host may allow fewer (fs.aio-max-nr): what does not fit waits in the batch. */
  int result = -EAGAIN;
  for (uint32_t count = engine->operation_count; count > 0 && result == -EAGAIN; count /= 2) {
    result = io_setup((int)count, &engine->context);
  }
  if (result < 0) {
    engine->context = NULL;
    return -result;
  }
  engine->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (engine->epoll < 0) {
    return errno;
  }
  engine->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (engine->wake < 0) {
    return errno;
  }
  /* Edge-triggered: every completion is an edge, so the count need not be read. */
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = engine->wake};
  if (epoll_ctl(engine->epoll, EPOLL_CTL_ADD, engine->wake, &event) < 0) {
    return errno;
  }
  return 0;
}

struct caio *caio_create(uint32_t operations, int32_t *error) {
  struct caio *engine = calloc(1, sizeof *engine);
  if (engine == NULL) {
    *error = ENOMEM;
    return NULL;
  }
  engine->epoll = -1;
  engine->wake = -1;
  engine->operation_count = operations;
  engine->operations = calloc(operations, sizeof *engine->operations);
  engine->batch = calloc(operations, sizeof *engine->batch);
  engine->events = calloc(EVENT_BATCH, sizeof *engine->events);
  bool allocated = engine->operations != NULL && engine->batch != NULL && engine->events != NULL;
  *error = allocated && grow_sockets(engine, 0) ? set_up(engine) : ENOMEM;
  if (*error != 0) {
    release(engine);
    return NULL;
  }
  for (uint32_t index = 0; index < operations; index++) {
    engine->operations[index].next = engine->free_operations;
    engine->free_operations = &engine->operations[index];
  }
  return engine;
}

void caio_destroy(struct caio *engine) { release(engine); }

/* Disks. */

static struct disk_operation *take(struct caio *engine, uint64_t tag) {
  struct disk_operation *operation = engine->free_operations;
  if (operation != NULL) {
    engine->free_operations = operation->next;
    operation->tag = tag;
  }
  return operation;
}

static void give_back(struct caio *engine, struct disk_operation *operation) {
  operation->next = engine->free_operations;
  engine->free_operations = operation;
}

static int enqueue(struct caio *engine, struct disk_operation *operation) {
  io_set_eventfd(&operation->iocb, engine->wake);
  operation->iocb.data = operation;
  engine->batch[engine->batch_count] = &operation->iocb;
  engine->batch_count++;
  return 0;
}

int caio_read(struct caio *engine, int fd, void *buffer, uint32_t length, uint64_t offset,
              uint64_t tag) {
  struct disk_operation *operation = take(engine, tag);
  if (operation == NULL) {
    return -EBUSY;
  }
  io_prep_pread(&operation->iocb, fd, buffer, length, (long long)offset);
  return enqueue(engine, operation);
}

int caio_write(struct caio *engine, int fd, const void *buffer, uint32_t length, uint64_t offset,
               uint32_t rw_flags, uint64_t tag) {
  struct disk_operation *operation = take(engine, tag);
  if (operation == NULL) {
    return -EBUSY;
  }
  io_prep_pwrite(&operation->iocb, fd, (void *)buffer, length, (long long)offset);
  operation->iocb.aio_rw_flags = rw_flags;
  return enqueue(engine, operation);
}

/* Hands the batch to the kernel; what it has no room for stays. */
static void submit_disk(struct caio *engine) {
  uint32_t next = 0;
  while (next < engine->batch_count) {
    int result = io_submit(engine->context, (long)(engine->batch_count - next),
                           engine->batch + next);
    if (result > 0) {
      next += (uint32_t)result;
      engine->in_kernel += (uint32_t)result;
      continue;
    }
    if (result == -EINTR) {
      continue;
    }
    if (result == -EAGAIN && engine->in_kernel > 0) {
      break;
    }
    /* The first one was refused, with the reason. */
    struct disk_operation *refused = engine->batch[next]->data;
    next++;
    give_back(engine, refused);
    complete(engine, refused->tag, result == 0 ? -EIO : result);
  }
  memmove(engine->batch, engine->batch + next,
          (engine->batch_count - next) * sizeof *engine->batch);
  engine->batch_count -= next;
}

static void reap_disk(struct caio *engine) {
  struct timespec none = {0, 0};
  int count = EVENT_BATCH;
  while (engine->in_kernel > 0 && count == EVENT_BATCH) {
    count = io_getevents(engine->context, 0, EVENT_BATCH, engine->events, &none);
    for (int index = 0; index < count; index++) {
      struct disk_operation *operation = engine->events[index].data;
      complete(engine, operation->tag, (int32_t)(int64_t)engine->events[index].res);
      give_back(engine, operation);
      engine->in_kernel--;
    }
  }
}

/* Sockets. */

static int wait_for(struct caio *engine, int fd, bool out, struct waiting operation) {
  if (fd < 0) {
    return -EBADF;
  }
  if ((uint32_t)fd >= engine->socket_count && !grow_sockets(engine, fd)) {
    return -EBUSY;
  }
  struct waiting *place = out ? &engine->sockets[fd].out : &engine->sockets[fd].in;
  if (place->kind != KIND_NONE) {
    return -EBUSY;
  }
  bool queued = place->queued;
  *place = operation;
  place->queued = true;
  if (!queued) {
    engine->tries[engine->try_count] = (struct try){.fd = fd, .out = out};
    engine->try_count++;
  }
  return 0;
}

int caio_recv(struct caio *engine, int fd, void *buffer, uint32_t length, int flags, uint64_t tag) {
  struct waiting operation = {
      .kind = KIND_RECV, .flags = flags, .memory = buffer, .length = length, .tag = tag};
  return wait_for(engine, fd, false, operation);
}

int caio_send(struct caio *engine, int fd, const void *buffer, uint32_t length, int flags,
              uint64_t tag) {
  struct waiting operation = {
      .kind = KIND_SEND, .flags = flags, .memory = (void *)buffer, .length = length, .tag = tag};
  return wait_for(engine, fd, true, operation);
}

int caio_sendmsg(struct caio *engine, int fd, const void *message, int flags, uint64_t tag) {
  struct waiting operation = {
      .kind = KIND_SENDMSG, .flags = flags, .memory = (void *)message, .tag = tag};
  return wait_for(engine, fd, true, operation);
}

/* Whether a descriptor blocks is a property of the socket, which nobody else uses. */
static void make_nonblocking(int fd) {
  int flags = fcntl(fd, F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) == 0) {
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  }
}

int caio_accept(struct caio *engine, int fd, int flags, uint64_t tag) {
  make_nonblocking(fd);
  struct waiting operation = {.kind = KIND_ACCEPT, .flags = flags, .tag = tag};
  return wait_for(engine, fd, false, operation);
}

int caio_connect(struct caio *engine, int fd, const void *address, uint32_t length, uint64_t tag) {
  make_nonblocking(fd);
  struct waiting operation = {
      .kind = KIND_CONNECT, .memory = (void *)address, .length = length, .tag = tag};
  return wait_for(engine, fd, true, operation);
}

int caio_read_counter(struct caio *engine, int fd, void *buffer, uint64_t tag) {
  make_nonblocking(fd);
  struct waiting operation = {.kind = KIND_COUNTER, .memory = buffer, .tag = tag};
  return wait_for(engine, fd, false, operation);
}

int caio_cancel(struct caio *engine, int fd, uint64_t target, uint64_t tag) {
  int32_t result = -ENOENT;
  if (fd >= 0 && (uint32_t)fd < engine->socket_count) {
    struct socket_state *state = &engine->sockets[fd];
    struct waiting *places[] = {&state->in, &state->out};
    for (int index = 0; index < 2; index++) {
      if (places[index]->kind != KIND_NONE && places[index]->tag == target) {
        places[index]->kind = KIND_NONE;
        complete(engine, target, -ECANCELED);
        result = 0;
      }
    }
  }
  complete(engine, tag, result);
  return 0;
}

void caio_forget(struct caio *engine, int fd) {
  if (fd >= 0 && (uint32_t)fd < engine->socket_count) {
    engine->sockets[fd].registered = false;
  }
}

/* The result of trying an operation: a count, a descriptor or -errno. */
static int32_t attempt(int fd, const struct waiting *operation) {
  ssize_t result = -1;
  switch (operation->kind) {
  case KIND_RECV:
    result = recv(fd, operation->memory, operation->length, operation->flags | MSG_DONTWAIT);
    break;
  case KIND_SEND:
    result = send(fd, operation->memory, operation->length, operation->flags | MSG_DONTWAIT);
    break;
  case KIND_SENDMSG:
    result = sendmsg(fd, operation->memory, operation->flags | MSG_DONTWAIT);
    break;
  case KIND_ACCEPT:
    result = accept4(fd, NULL, NULL, operation->flags);
    break;
  case KIND_CONNECT:
    /* Asked again, the kernel says how the attempt that is going on stands. */
    result = connect(fd, operation->memory, operation->length);
    if (result < 0 && errno == EISCONN) {
      result = 0;
    } else if (result < 0 && (errno == EINPROGRESS || errno == EALREADY)) {
      errno = EWOULDBLOCK;
    }
    break;
  case KIND_COUNTER:
    result = read(fd, operation->memory, 8);
    break;
  case KIND_NONE:
    return -ENOENT;
  }
  return result < 0 ? -errno : (int32_t)result;
}

/* Makes epoll tell about the socket; 0 or -errno. */
static int watch(struct caio *engine, int fd, bool is_stream) {
  struct socket_state *state = &engine->sockets[fd];
  if (is_stream && state->registered) {
    return 0; /* edge-triggered for good: the next change is told */
  }
  struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
  /* Others than streams are closed without our knowledge, so what epoll knows must be asked. */
  if (epoll_ctl(engine->epoll, EPOLL_CTL_MOD, fd, &event) < 0 &&
      (errno != ENOENT || epoll_ctl(engine->epoll, EPOLL_CTL_ADD, fd, &event) < 0)) {
    return -errno;
  }
  state->registered = is_stream;
  return 0;
}

static void try_now(struct caio *engine, int fd, bool out, bool must_watch) {
  struct waiting *operation = out ? &engine->sockets[fd].out : &engine->sockets[fd].in;
  if (operation->kind == KIND_NONE) {
    return;
  }
  int32_t result = attempt(fd, operation);
  if (result == -EAGAIN || result == -EWOULDBLOCK) {
    if (!must_watch) {
      return;
    }
    bool is_stream = operation->kind == KIND_RECV || operation->kind == KIND_SEND ||
                     operation->kind == KIND_SENDMSG;
    result = watch(engine, fd, is_stream);
    if (result == 0) {
      return;
    }
  }
  operation->kind = KIND_NONE;
  complete(engine, operation->tag, result);
}

static void try_sockets(struct caio *engine) {
  for (uint32_t index = 0; index < engine->try_count; index++) {
    struct try next = engine->tries[index];
    struct socket_state *state = &engine->sockets[next.fd];
    if (next.out) {
      state->out.queued = false;
    } else {
      state->in.queued = false;
    }
    try_now(engine, next.fd, next.out, true);
  }
  engine->try_count = 0;
}

static int milliseconds(uint64_t timeout_ns) {
  if (timeout_ns == CAIO_FOREVER) {
    return -1;
  }
  /* Upwards: a deadline must not be met early, or the caller turns without need. */
  uint64_t rounded = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
  return rounded > 1000000000 ? 1000000000 : (int)rounded;
}

int caio_submit(struct caio *engine, uint32_t at_least, uint64_t timeout_ns,
                struct caio_completion *out, uint32_t capacity) {
  submit_disk(engine);
  try_sockets(engine);
  struct epoll_event events[64];
  bool may_sleep = at_least > 0 && engine->done_count == 0;
  int count = epoll_wait(engine->epoll, events, 64, may_sleep ? milliseconds(timeout_ns) : 0);
  int result = count < 0 ? -errno : 0;
  bool disk_is_ready = false;
  for (int index = 0; index < count; index++) {
    int fd = events[index].data.fd;
    uint32_t found = events[index].events;
    if (fd == engine->wake) {
      disk_is_ready = true;
      continue;
    }
    if ((found & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
      try_now(engine, fd, false, false);
    }
    if ((found & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
      try_now(engine, fd, true, false);
    }
  }
  if (disk_is_ready) {
    reap_disk(engine);
    submit_disk(engine);
  }
  uint32_t taken = 0;
  while (taken < capacity && engine->done_count > 0) {
    out[taken] = engine->done[engine->done_head];
    engine->done_head = (engine->done_head + 1) % engine->done_capacity;
    engine->done_count--;
    taken++;
  }
  return taken > 0 ? (int)taken : result;
}
