/* Lets ashlard run under valgrind 3.19, Debian 12's. Loaded with LD_PRELOAD.
 *
 * libdispatch parks the main thread in sigsuspend with a constant mask, and this valgrind writes to
 * the mask it is given ("VALGRIND INTERNAL ERROR" in sigsuspend). And it takes io_uring_enter for a
 * call that never blocks, so that while the reactor waits in it no other thread runs. So sigsuspend
 * gets a copy of the mask, and a wait becomes a submit, a poll of the ring, and a look. Deferred
 * task work is refused, because it does not wake a poll.
 *
 * What must hold: what is submitted and completed is what would be without it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <linux/time_types.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct io_uring;

int sigsuspend(const sigset_t *mask) {
  sigset_t copy = *mask;
  return (int)syscall(SYS_rt_sigsuspend, &copy, 8);
}

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                               struct io_uring_params *params) {
  if ((params->flags & IORING_SETUP_DEFER_TASKRUN) != 0) return -EINVAL;
  int (*real)(unsigned, struct io_uring *, struct io_uring_params *);
  *(void **)&real = dlsym(RTLD_NEXT, "io_uring_queue_init_params");
  return real(entries, ring, params);
}

/* A ring known by its index cannot be polled: keep the descriptor. */
int io_uring_register_ring_fd(struct io_uring *ring) {
  (void)ring;
  return -EINVAL;
}

static int enter(unsigned ring, unsigned count, unsigned flags) {
  long result = syscall(SYS_io_uring_enter, ring, count, 0, flags, NULL, 0);
  return result < 0 ? -errno : (int)result;
}

int io_uring_enter2(unsigned ring, unsigned count, unsigned needed, unsigned flags,
                    sigset_t *argument, size_t bytes) {
  if (needed == 0) return enter(ring, count, flags);
  int submitted = count > 0 ? enter(ring, count, IORING_ENTER_GETEVENTS) : 0;
  if (submitted < 0) return submitted;
  struct timespec time = {0};
  const struct timespec *limit = NULL;
  if ((flags & IORING_ENTER_EXT_ARG) != 0 && bytes == sizeof(struct io_uring_getevents_arg)) {
    const struct io_uring_getevents_arg *extra = (const void *)argument;
    const struct __kernel_timespec *wanted = (const void *)(size_t)extra->ts;
    if (wanted != NULL) {
      time.tv_sec = wanted->tv_sec;
      time.tv_nsec = wanted->tv_nsec;
      limit = &time;
    }
  }
  struct pollfd readable = {.fd = (int)ring, .events = POLLIN};
  ppoll(&readable, 1, limit, NULL);
  int looked = enter(ring, 0, IORING_ENTER_GETEVENTS);
  return looked < 0 ? looked : submitted;
}
