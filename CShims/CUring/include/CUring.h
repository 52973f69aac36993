/* The engine's whole view of io_uring: queue operations, submit them together, collect completions.
 *
 * `struct curing` stays opaque and <liburing.h> stays out of this header: liburing defines
 * _XOPEN_SOURCE, which gives glibc types another layout name than Swift's Glibc module has, and the
 * import then fails. Nothing here retries, allocates per call, logs or decides.
 *
 * A ring belongs to the thread that first calls curing_submit; it may be created on another one. */
#ifndef CURING_H
#define CURING_H

#include <stdint.h>

struct curing;

/* One finished operation: the caller's tag, and a count or -errno. */
struct curing_completion {
  uint64_t tag;
  int32_t result;
  uint32_t flags;
};

/* In `flags` of a receive: the socket had more bytes than were asked for. */
#define CURING_SOCKET_NONEMPTY 4u
/* In `rw_flags`: fail with -EAGAIN what would have to wait. Without it the kernel gives that to
 * threads of its own, which then wake up every five seconds for as long as the process lives. */
#define CURING_NOWAIT 8u
/* In `rw_flags`: complete when the write is on stable storage. */
#define CURING_DSYNC 2u
/* As `timeout_ns`: none. */
#define CURING_FOREVER UINT64_MAX

/* Sets a ring up. On failure NULL, and the errno is in `*error`: ENOSYS or EPERM where io_uring is
 * missing or switched off, also ENOSYS where it is too old (waiting with a timeout needs 5.11). */
struct curing *curing_create(uint32_t submission_entries, uint32_t completion_entries,
                             int32_t *error);
/* Frees the ring. The kernel must have let go of every operation. */
void curing_destroy(struct curing *ring);

/* Registers one memory region for the fixed calls below; 0 or -errno. Before the first submit. */
int curing_register_memory(struct curing *ring, void *memory, uint64_t length);

/* Queue one operation each. Return 0, or -EBUSY when the submission queue is full. Memory that is
 * passed must stay until the completion, except `address`, which must stay until the submit. */
int curing_read(struct curing *ring, int fd, void *buffer, uint32_t length, uint64_t offset,
                uint32_t rw_flags, uint64_t tag);
int curing_write(struct curing *ring, int fd, const void *buffer, uint32_t length,
                 uint64_t offset, uint32_t rw_flags, uint64_t tag);
/* The same for a buffer inside the registered region: the kernel need not pin its pages. */
int curing_read_fixed(struct curing *ring, int fd, void *buffer, uint32_t length, uint64_t offset,
                      uint32_t rw_flags, uint64_t tag);
int curing_write_fixed(struct curing *ring, int fd, const void *buffer, uint32_t length,
                       uint64_t offset, uint32_t rw_flags, uint64_t tag);
/* `poll_first`: do not try before the socket says it is readable. */
int curing_recv(struct curing *ring, int fd, void *buffer, uint32_t length, int flags,
                int poll_first, uint64_t tag);
int curing_send(struct curing *ring, int fd, const void *buffer, uint32_t length, int flags,
                uint64_t tag);
/* `message` is a struct msghdr. */
int curing_sendmsg(struct curing *ring, int fd, const void *message, int flags, uint64_t tag);
int curing_accept(struct curing *ring, int fd, int flags, uint64_t tag);
/* `address` is a struct sockaddr of `length` bytes. */
int curing_connect(struct curing *ring, int fd, const void *address, uint32_t length, uint64_t tag);
/* Cancels the operation queued with `target`; completes itself with `tag`. */
int curing_cancel(struct curing *ring, uint64_t target, uint64_t tag);

/* Submits all queued operations, waits for `at_least` completions (0 or 1) or `timeout_ns`, and
 * copies completions to `out`. One system call at most. Returns how many were copied (at most
 * `capacity`; the rest stays for the next call), or -errno when there was none. */
int curing_submit(struct curing *ring, uint32_t at_least, uint64_t timeout_ns,
                  struct curing_completion *out, uint32_t capacity);

#endif
