/* The engine for hosts where io_uring is switched off: libaio for disks, epoll for sockets. It
 * takes the same calls as CUring and gives the same completions, so that the layer above has one
 * code path.
 *
 * All calls are made by one thread. Nothing here retries a failed operation, allocates per call
 * (but for a descriptor number not seen before), logs or decides. */
#ifndef CAIO_H
#define CAIO_H

#include <stdint.h>

struct caio;

/* One finished operation: the caller's tag, and a count or -errno. */
struct caio_completion {
  uint64_t tag;
  int32_t result;
  uint32_t flags;
};

/* As `timeout_ns`: none. */
#define CAIO_FOREVER UINT64_MAX

/* Sets up room for `operations` disk operations at a time. On failure NULL and the errno in
 * `*error`. */
struct caio *caio_create(uint32_t operations, int32_t *error);
/* Frees it. Every operation must have completed. */
void caio_destroy(struct caio *engine);

/* Queue one operation each. Return 0, or -EBUSY when there is no room before the next submit (disk)
 * or ever (a second operation of one kind on a socket). Memory stays until the completion. */
int caio_read(struct caio *engine, int fd, void *buffer, uint32_t length, uint64_t offset,
              uint64_t tag);
int caio_write(struct caio *engine, int fd, const void *buffer, uint32_t length, uint64_t offset,
               uint32_t rw_flags, uint64_t tag);
int caio_recv(struct caio *engine, int fd, void *buffer, uint32_t length, int flags, uint64_t tag);
int caio_send(struct caio *engine, int fd, const void *buffer, uint32_t length, int flags,
              uint64_t tag);
/* `message` is a struct msghdr. */
int caio_sendmsg(struct caio *engine, int fd, const void *message, int flags, uint64_t tag);
int caio_accept(struct caio *engine, int fd, int flags, uint64_t tag);
/* `address` is a struct sockaddr of `length` bytes. */
int caio_connect(struct caio *engine, int fd, const void *address, uint32_t length, uint64_t tag);
/* Reads the eight bytes of an eventfd when it is not zero. */
int caio_read_counter(struct caio *engine, int fd, void *buffer, uint64_t tag);
/* Cancels the socket operation `target` on `fd`; completes itself with `tag`. */
int caio_cancel(struct caio *engine, int fd, uint64_t target, uint64_t tag);
/* Says that `fd` is about to be closed. */
void caio_forget(struct caio *engine, int fd);

/* Submits all queued operations, waits for `at_least` completions (0 or 1) or `timeout_ns`, and
 * copies completions to `out`: how many, or -errno. It may return 0 early. */
int caio_submit(struct caio *engine, uint32_t at_least, uint64_t timeout_ns,
                struct caio_completion *out, uint32_t capacity);

#endif
