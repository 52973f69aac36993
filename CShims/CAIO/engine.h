/* The engine behind CAIO.h: libaio for disks, epoll for sockets. */
#ifndef CAIO_ENGINE_H
#define CAIO_ENGINE_H

#include "CAIO.h"

#include <libaio.h>
#include <stdbool.h>
#include <stdint.h>

struct disk_operation {
  struct iocb iocb;
  uint64_t tag;
  struct disk_operation *next;
};

enum kind {
  KIND_NONE, KIND_RECV, KIND_SEND, KIND_SENDMSG, KIND_ACCEPT, KIND_CONNECT, KIND_COUNTER
};

/* One direction of a socket: at most one operation waits. */
struct waiting {
  enum kind kind;
  bool queued; /* is in `tries` */
  int flags;
  uint32_t length;
  void *memory;
  uint64_t tag;
};

struct socket_state {
  struct waiting in;
  struct waiting out;
  bool registered; /* epoll knows the stream; `caio_forget` resets it before the close */
};

struct try {
  int fd;
  bool out;
};

struct caio {
  io_context_t context;
  int epoll;
  int wake; /* eventfd: counts disk completions */
  uint32_t operation_count;
  struct disk_operation *operations;
  struct disk_operation *free_operations;
  struct iocb **batch; /* queued, not yet submitted */
  uint32_t batch_count;
  uint32_t in_kernel;
  struct io_event *events;

  struct socket_state *sockets; /* by descriptor */
  uint32_t socket_count;
  struct try *tries; /* operations to try at the next submit */
  uint32_t try_count;

  struct caio_completion *done; /* a ring */
  uint32_t done_capacity;
  uint32_t done_head;
  uint32_t done_count;
};

#endif
