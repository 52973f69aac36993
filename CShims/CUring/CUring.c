#define _GNU_SOURCE
#include "CUring.h"

#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

struct curing {
  struct io_uring ring;
  bool deferred; /* completions are only delivered by a call that asks for them */
  bool enabled;
  unsigned enter_flags;
};

_Static_assert(CURING_SOCKET_NONEMPTY == IORING_CQE_F_SOCK_NONEMPTY, "flag of the kernel");
_Static_assert(CURING_NOWAIT == RWF_NOWAIT, "flag of the kernel");
_Static_assert(CURING_DSYNC == RWF_DSYNC, "flag of the kernel");

/* Tries the newest set of flags first; kernels before 6.1, 6.0 and 5.18 refuse them with EINVAL. */
static int set_up(struct curing *ring, uint32_t submission_entries, uint32_t completion_entries) {
  static const unsigned wanted[] = {
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL,
      IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL,
      IORING_SETUP_SUBMIT_ALL,
      0,
  };
  int result = -EINVAL;
  for (unsigned attempt = 0; attempt < sizeof wanted / sizeof wanted[0]; attempt++) {
    struct io_uring_params params;
    memset(&params, 0, sizeof params);
    params.flags = wanted[attempt] | IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE |
                   IORING_SETUP_R_DISABLED;
    params.cq_entries = completion_entries;
    result = io_uring_queue_init_params(submission_entries, &ring->ring, &params);
    if (result != -EINVAL) {
      ring->deferred = (wanted[attempt] & IORING_SETUP_DEFER_TASKRUN) != 0;
      return result;
    }
  }
  return result;
}

struct curing *curing_create(uint32_t submission_entries, uint32_t completion_entries,
                             int32_t *error) {
  struct curing *ring = calloc(1, sizeof *ring);
  if (ring == NULL) {
    *error = ENOMEM;
    return NULL;
  }
  int result = set_up(ring, submission_entries, completion_entries);
  if (result < 0) {
    *error = -result;
    free(ring);
    return NULL;
  }
  const unsigned needed = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
  if ((ring->ring.features & needed) != needed) {
    io_uring_queue_exit(&ring->ring);
    free(ring);
    *error = ENOSYS;
    return NULL;
  }
  /* Entry n of the array always names queue slot n, so a submit only moves the tail. */
  for (unsigned index = 0; index < ring->ring.sq.ring_entries; index++) {
    ring->ring.sq.array[index] = index;
  }
  return ring;
}

void curing_destroy(struct curing *ring) {
  io_uring_queue_exit(&ring->ring);
  free(ring);
}

int curing_register_memory(struct curing *ring, void *memory, uint64_t length) {
  /* The kernel takes at most 1 GiB a region. */
  if (length > (1u << 30)) {
    return -EFBIG;
  }
  struct iovec region = {.iov_base = memory, .iov_len = length};
  return io_uring_register_buffers(&ring->ring, &region, 1);
}

static inline struct io_uring_sqe *next_entry(struct curing *ring, uint64_t tag) {
  struct io_uring_sqe *entry = io_uring_get_sqe(&ring->ring);
  if (entry != NULL) {
    memset(entry, 0, sizeof *entry);
    entry->user_data = tag;
  }
  return entry;
}

static inline int transfer(struct curing *ring, uint8_t opcode, int fd, uint64_t address,
                           uint32_t length, uint64_t offset, uint32_t flags, uint64_t tag) {
  struct io_uring_sqe *entry = next_entry(ring, tag);
  if (entry == NULL) {
    return -EBUSY;
  }
  entry->opcode = opcode;
  entry->fd = fd;
  entry->addr = address;
  entry->len = length;
  entry->off = offset;
  entry->rw_flags = (int)flags; /* shares its place with msg_flags, fsync_flags and the like */
  return 0;
}

int curing_read(struct curing *ring, int fd, void *buffer, uint32_t length, uint64_t offset,
                uint32_t rw_flags, uint64_t tag) {
  return transfer(ring, IORING_OP_READ, fd, (uintptr_t)buffer, length, offset, rw_flags, tag);
}

int curing_write(struct curing *ring, int fd, const void *buffer, uint32_t length,
                 uint64_t offset, uint32_t rw_flags, uint64_t tag) {
  return transfer(ring, IORING_OP_WRITE, fd, (uintptr_t)buffer, length, offset, rw_flags, tag);
}

int curing_read_fixed(struct curing *ring, int fd, void *buffer, uint32_t length, uint64_t offset,
                      uint32_t rw_flags, uint64_t tag) {
  return transfer(ring, IORING_OP_READ_FIXED, fd, (uintptr_t)buffer, length, offset, rw_flags,
                  tag);
}

int curing_write_fixed(struct curing *ring, int fd, const void *buffer, uint32_t length,
                       uint64_t offset, uint32_t rw_flags, uint64_t tag) {
  return transfer(ring, IORING_OP_WRITE_FIXED, fd, (uintptr_t)buffer, length, offset, rw_flags,
                  tag);
}

int curing_recv(struct curing *ring, int fd, void *buffer, uint32_t length, int flags,
                int poll_first, uint64_t tag) {
  struct io_uring_sqe *entry = next_entry(ring, tag);
  if (entry == NULL) {
    return -EBUSY;
  }
  entry->opcode = IORING_OP_RECV;
  entry->fd = fd;
  entry->addr = (uintptr_t)buffer;
  entry->len = length;
  entry->msg_flags = (uint32_t)flags;
  entry->ioprio = poll_first ? IORING_RECVSEND_POLL_FIRST : 0;
  return 0;
}

int curing_send(struct curing *ring, int fd, const void *buffer, uint32_t length, int flags,
                uint64_t tag) {
  return transfer(ring, IORING_OP_SEND, fd, (uintptr_t)buffer, length, 0, (uint32_t)flags, tag);
}

int curing_sendmsg(struct curing *ring, int fd, const void *message, int flags, uint64_t tag) {
  return transfer(ring, IORING_OP_SENDMSG, fd, (uintptr_t)message, 1, 0, (uint32_t)flags, tag);
}

int curing_accept(struct curing *ring, int fd, int flags, uint64_t tag) {
  return transfer(ring, IORING_OP_ACCEPT, fd, 0, 0, 0, (uint32_t)flags, tag);
}

int curing_connect(struct curing *ring, int fd, const void *address, uint32_t length,
                   uint64_t tag) {
  return transfer(ring, IORING_OP_CONNECT, fd, (uintptr_t)address, 0, length, 0, tag);
}

int curing_cancel(struct curing *ring, uint64_t target, uint64_t tag) {
  return transfer(ring, IORING_OP_ASYNC_CANCEL, -1, target, 0, 0, 0, tag);
}

/* Copies what the completion queue holds and gives its places back to the kernel. */
static uint32_t collect(struct io_uring_cq *queue, struct curing_completion *out,
                        uint32_t capacity) {
  unsigned head = *queue->khead;
  unsigned available = io_uring_smp_load_acquire(queue->ktail) - head;
  uint32_t count = available < capacity ? available : capacity;
  for (uint32_t index = 0; index < count; index++) {
    const struct io_uring_cqe *entry = &queue->cqes[(head + index) & queue->ring_mask];
    out[index].tag = entry->user_data;
    out[index].result = entry->res;
    out[index].flags = entry->flags;
  }
  if (count > 0) {
    io_uring_smp_store_release(queue->khead, head + count);
  }
  return count;
}

int curing_submit(struct curing *ring, uint32_t at_least, uint64_t timeout_ns,
                  struct curing_completion *out, uint32_t capacity) {
  struct io_uring_sq *submissions = &ring->ring.sq;
  if (!ring->enabled) {
    /* By number: Debian's liburing declares io_uring_enable_rings but does not export it. */
    int result =
        io_uring_register((unsigned)ring->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (result < 0) {
      return result;
    }
    ring->enabled = true;
    /* Saves a look-up of the descriptor in each call. Kernels before 5.18 cannot: no matter. */
    if (io_uring_register_ring_fd(&ring->ring) == 1) {
      ring->enter_flags = IORING_ENTER_REGISTERED_RING;
    }
  }
  io_uring_smp_store_release(submissions->ktail, submissions->sqe_tail);
  unsigned queued = submissions->sqe_tail - *submissions->khead;
  unsigned ready = io_uring_smp_load_acquire(ring->ring.cq.ktail) - *ring->ring.cq.khead;
  if (queued == 0 && ready > 0) {
    return (int)collect(&ring->ring.cq, out, capacity);
  }

  struct __kernel_timespec time;
  struct io_uring_getevents_arg argument;
  /* Who has no room for completions only wants to submit. */
  unsigned flags = capacity > 0 ? IORING_ENTER_GETEVENTS : 0;
  void *extra = NULL;
  size_t extra_bytes = 0;
  unsigned needed = at_least > 0 && ready == 0 ? at_least : 0;
  if (needed > 0 && timeout_ns != CURING_FOREVER) {
    time.tv_sec = (int64_t)(timeout_ns / 1000000000u);
    time.tv_nsec = (int64_t)(timeout_ns % 1000000000u);
    memset(&argument, 0, sizeof argument);
    argument.ts = (uintptr_t)&time;
    flags |= IORING_ENTER_EXT_ARG;
    extra = &argument;
    extra_bytes = sizeof argument;
  } else if (needed == 0 && !ring->deferred) {
    /* Nothing to wait for and nothing that only a wait would deliver, but an overflow. */
    bool overflow = (*submissions->kflags & IORING_SQ_CQ_OVERFLOW) != 0;
    flags = overflow ? IORING_ENTER_GETEVENTS : 0;
  }
  int result = io_uring_enter2((unsigned)ring->ring.enter_ring_fd, queued, needed,
                               flags | ring->enter_flags, extra, extra_bytes);
  uint32_t count = collect(&ring->ring.cq, out, capacity);
  return count > 0 || result >= 0 ? (int)count : result;
}
