#define _GNU_SOURCE
#include "CHelper.h"

#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

_Static_assert(CHELPER_DSYNC == RWF_DSYNC, "flag of the kernel");

enum kind { KIND_READ, KIND_WRITE, KIND_DATASYNC, KIND_FALLOCATE };

struct job {
  struct iocb iocb;
  struct job *next;
  struct job *others; /* flushes that one call does together with this one */
  enum kind kind;
  uint32_t place;
  int fd;
  int flags; /* of a write, or the mode of fallocate */
  int32_t result;
  void *memory;
  uint64_t offset;
  uint64_t length;
  uint64_t tag;
};

struct list {
  struct job *first;
  struct job *last;
};

/* What one thread is busy with. Not the job itself: a transfer may end, and its job be used again,
 * while the thread that began it has not come back from the kernel. */
struct place {
  bool taken;
  bool flushes;
  int fd;
};

struct chelper {
  int wake;
  struct job *jobs;
  struct job *free;
  uint32_t given_count;  /* and not collected */
  struct list collected; /* taken from the threads together, handed over one by one */
  io_context_t transfers; /* NULL where the host has no room for one */

  pthread_t threads[CHELPER_THREADS];
  uint32_t thread_count;
  pthread_mutex_t mutex; /* guards what follows */
  pthread_cond_t work;
  bool stops;
  struct list waiting; /* may not begin yet */
  struct list ready;   /* may begin, each with a place, and are left to a thread */
  struct place places[CHELPER_THREADS];
  uint32_t taken_count;
  struct list done;
};

static void append(struct list *list, struct job *job) {
  job->next = NULL;
  if (list->first == NULL) {
    list->first = job;
  } else {
    list->last->next = job;
  }
  list->last = job;
}

/* Takes out the job behind `before`, or the first one where that is NULL. */
static struct job *unlink_behind(struct list *list, struct job *before) {
  struct job *job = before == NULL ? list->first : before->next;
  if (before == NULL) {
    list->first = job->next;
  } else {
    before->next = job->next;
  }
  if (list->last == job) {
    list->last = before;
  }
  job->next = NULL;
  return job;
}

struct chelper *chelper_create(uint32_t jobs, uint32_t transfers, int wake, int32_t *error) {
  struct chelper *helper = calloc(1, sizeof *helper);
  struct job *room = calloc(jobs, sizeof *room);
  if (helper == NULL || room == NULL) {
    free(helper);
    free(room);
    *error = ENOMEM;
    return NULL;
  }
  helper->wake = wake;
  helper->jobs = room;
  int result = -EAGAIN;
  for (uint32_t count = transfers; count > 0 && result == -EAGAIN; count /= 2) {
    result = io_setup((int)count, &helper->transfers);
  }
  if (result < 0) {
    helper->transfers = NULL;
  }
  for (uint32_t index = 0; index < jobs; index++) {
    room[index].next = helper->free;
    helper->free = &room[index];
  }
  pthread_mutex_init(&helper->mutex, NULL);
  pthread_cond_init(&helper->work, NULL);
  return helper;
}

void chelper_destroy(struct chelper *helper) {
  pthread_mutex_lock(&helper->mutex);
  helper->stops = true;
  pthread_cond_broadcast(&helper->work);
  pthread_mutex_unlock(&helper->mutex);
  for (uint32_t index = 0; index < helper->thread_count; index++) {
    pthread_join(helper->threads[index], NULL);
  }
  if (helper->transfers != NULL) {
    io_destroy(helper->transfers);
  }
  pthread_cond_destroy(&helper->work);
  pthread_mutex_destroy(&helper->mutex);
  free(helper->jobs);
  free(helper);
}

/* The threads. */

/* Whether a thread may begin the job now: see the limits of a descriptor in the header. */
static bool may_begin(const struct chelper *helper, const struct job *job) {
  bool flushes = job->kind == KIND_DATASYNC;
  uint32_t busy = 0;
  for (uint32_t index = 0; index < CHELPER_THREADS; index++) {
    const struct place *place = &helper->places[index];
    if (place->taken && place->fd == job->fd && place->flushes == flushes) {
      busy++;
    }
  }
  return helper->taken_count < CHELPER_THREADS && busy < (flushes ? 1 : CHELPER_TRANSFERS);
}

/* Leaves the job, which may begin, to a thread. */
static void make_ready(struct chelper *helper, struct job *job) {
  uint32_t index = 0;
  while (helper->places[index].taken) {
    index++;
  }
  helper->places[index] =
      (struct place){.taken = true, .flushes = job->kind == KIND_DATASYNC, .fd = job->fd};
  helper->taken_count++;
  job->place = index;
  append(&helper->ready, job);
}

static void free_place(struct chelper *helper, uint32_t index) {
  helper->places[index].taken = false;
  helper->taken_count--;
}

/* Makes the oldest job ready that may begin; a flush with all others of its descriptor, which were
 * given before it begins and so are covered by it. */
static void make_next_ready(struct chelper *helper) {
  struct job *before = NULL;
  struct job *job = helper->waiting.first;
  while (job != NULL && !may_begin(helper, job)) {
    before = job;
    job = job->next;
  }
  if (job == NULL) {
    return;
  }
  unlink_behind(&helper->waiting, before);
  struct list others = {NULL, NULL};
  struct job *other = before == NULL ? helper->waiting.first : before->next;
  while (job->kind == KIND_DATASYNC && other != NULL) {
    struct job *next = other->next;
    if (other->kind == KIND_DATASYNC && other->fd == job->fd) {
      unlink_behind(&helper->waiting, before);
      append(&others, other);
    } else {
      before = other;
    }
    other = next;
  }
  job->others = others.first;
  make_ready(helper, job);
}

/* Begins a transfer, which may block, but need not be waited for then: 64 writes to new blocks at a
 * time are four times as fast as four. Whether it could: not where there is no room, and not where
 * the file or the call is wrong for it, of which `carry_out` gives the reason. */
static bool begin(struct chelper *helper, struct job *job) {
  if (helper->transfers == NULL || (job->kind != KIND_READ && job->kind != KIND_WRITE)) {
    return false;
  }
  if (job->kind == KIND_READ) {
    io_prep_pread(&job->iocb, job->fd, job->memory, job->length, (long long)job->offset);
  } else {
    io_prep_pwrite(&job->iocb, job->fd, job->memory, job->length, (long long)job->offset);
    job->iocb.aio_rw_flags = job->flags;
  }
  job->iocb.data = job;
  io_set_eventfd(&job->iocb, helper->wake);
  struct iocb *one = &job->iocb;
  return io_submit(helper->transfers, 1, &one) == 1;
}

static int32_t carry_out(const struct job *job) {
  struct iovec piece = {.iov_base = job->memory, .iov_len = job->length};
  ssize_t result = -1;
  switch (job->kind) {
  case KIND_READ:
    result = preadv2(job->fd, &piece, 1, (off_t)job->offset, 0);
    break;
  case KIND_WRITE:
    result = pwritev2(job->fd, &piece, 1, (off_t)job->offset, job->flags);
    break;
  case KIND_DATASYNC:
    result = fdatasync(job->fd);
    break;
  case KIND_FALLOCATE:
    result = fallocate(job->fd, job->flags, (off_t)job->offset, (off_t)job->length);
    break;
  }
  return result < 0 ? -errno : (int32_t)result;
}

/* Hands over the results, and tells the caller unless there were some already. */
static void finish(struct chelper *helper, struct job *job, int32_t result) {
  bool must_tell = helper->done.first == NULL;
  while (job != NULL) {
    /* The first one hangs its others on itself, they are linked as a list. */
    struct job *next = job->others != NULL ? job->others : job->next;
    job->others = NULL;
    job->result = result;
    append(&helper->done, job);
    job = next;
  }
  if (must_tell) {
    uint64_t one = 1;
    ssize_t written = write(helper->wake, &one, sizeof one);
    (void)written; /* full only after 2^64 times */
  }
}

static void *run_thread(void *argument) {
  struct chelper *helper = argument;
  pthread_mutex_lock(&helper->mutex);
  while (!helper->stops) {
    if (helper->ready.first == NULL) {
      pthread_cond_wait(&helper->work, &helper->mutex);
      continue;
    }
    struct job *job = unlink_behind(&helper->ready, NULL);
    uint32_t place = job->place;
    pthread_mutex_unlock(&helper->mutex);
    /* Once it was begun, the job is no longer this thread's. */
    bool begun = begin(helper, job);
    int32_t result = begun ? 0 : carry_out(job);
    pthread_mutex_lock(&helper->mutex);
    free_place(helper, place);
    if (!begun) {
      finish(helper, job, result);
    }
    /* A place is free for one job, and this thread looks for it now. */
    make_next_ready(helper);
  }
  pthread_mutex_unlock(&helper->mutex);
  return NULL;
}

/* 0 or an errno. The threads are not for signals, and need little stack. */
static int start_thread(struct chelper *helper) {
  sigset_t all;
  sigset_t before;
  pthread_attr_t attributes;
  sigfillset(&all);
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 256 << 10);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t *thread = &helper->threads[helper->thread_count];
  int failed = pthread_create(thread, &attributes, run_thread, helper);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (failed == 0) {
    pthread_setname_np(*thread, "disk-helper");
    helper->thread_count++;
  }
  return failed;
}

/* The caller. */

/* Without any thread, nothing can be done: the only job there is fails. */
static void fail_first(struct chelper *helper, struct job *job, int error) {
  pthread_mutex_lock(&helper->mutex);
  helper->ready = (struct list){NULL, NULL};
  free_place(helper, job->place);
  finish(helper, job, -error);
  pthread_mutex_unlock(&helper->mutex);
}

static int give(struct chelper *helper, struct job content) {
  struct job *job = helper->free;
  if (job == NULL) {
    return -EBUSY;
  }
  helper->free = job->next;
  helper->given_count++;
  *job = content;
  pthread_mutex_lock(&helper->mutex);
  bool begins = may_begin(helper, job);
  if (begins) {
    make_ready(helper, job);
  } else {
    append(&helper->waiting, job);
  }
  /* With a thread for each place there is one that sleeps, or is about to look. */
  bool needs_thread = begins && helper->thread_count < helper->taken_count;
  if (begins && !needs_thread) {
    pthread_cond_signal(&helper->work);
  }
  pthread_mutex_unlock(&helper->mutex);
  int failed = needs_thread ? start_thread(helper) : 0;
  if (failed != 0 && helper->thread_count == 0) {
    fail_first(helper, job, failed);
  }
  return 0;
}

int chelper_read(struct chelper *helper, int fd, void *buffer, uint32_t length, uint64_t offset,
                 uint64_t tag) {
  return give(helper, (struct job){.kind = KIND_READ,
                                   .fd = fd,
                                   .memory = buffer,
                                   .length = length,
                                   .offset = offset,
                                   .tag = tag});
}

int chelper_write(struct chelper *helper, int fd, const void *buffer, uint32_t length,
                  uint64_t offset, uint32_t rw_flags, uint64_t tag) {
  return give(helper, (struct job){.kind = KIND_WRITE,
                                   .fd = fd,
                                   .flags = (int)rw_flags,
                                   .memory = (void *)buffer,
                                   .length = length,
                                   .offset = offset,
                                   .tag = tag});
}

int chelper_datasync(struct chelper *helper, int fd, uint64_t tag) {
  return give(helper, (struct job){.kind = KIND_DATASYNC, .fd = fd, .tag = tag});
}

int chelper_fallocate(struct chelper *helper, int fd, int mode, uint64_t offset, uint64_t length,
                      uint64_t tag) {
  return give(helper, (struct job){.kind = KIND_FALLOCATE,
                                   .fd = fd,
                                   .flags = mode,
                                   .offset = offset,
                                   .length = length,
                                   .tag = tag});
}

/* Takes over all results that there are. */
static void collect_all(struct chelper *helper) {
  pthread_mutex_lock(&helper->mutex);
  helper->collected = helper->done;
  helper->done = (struct list){NULL, NULL};
  pthread_mutex_unlock(&helper->mutex);
  struct io_event events[64];
  struct timespec none = {0, 0};
  int count = helper->transfers != NULL ? 64 : 0;
  while (count == 64) {
    count = io_getevents(helper->transfers, 0, 64, events, &none);
    for (int index = 0; index < count; index++) {
      struct job *job = events[index].data;
      job->result = (int32_t)(int64_t)events[index].res;
      append(&helper->collected, job);
    }
  }
}

int chelper_collect(struct chelper *helper, uint64_t *tag, int32_t *result) {
  if (helper->given_count > 0 && helper->collected.first == NULL) {
    collect_all(helper);
  }
  if (helper->collected.first == NULL) {
    return 0;
  }
  struct job *job = unlink_behind(&helper->collected, NULL);
  *tag = job->tag;
  *result = job->result;
  job->next = helper->free;
  helper->free = job;
  helper->given_count--;
  return 1;
}
