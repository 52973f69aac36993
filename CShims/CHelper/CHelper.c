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
_Static_assert(CHELPER_THREADS == CHELPER_DESCRIPTORS * (CHELPER_TRANSFERS + 1), "one for each");

enum kind { KIND_READ, KIND_WRITE, KIND_DATASYNC, KIND_FALLOCATE };

struct job {
  struct iocb iocb;
  struct job *next;
  struct job *others; /* flushes that one call does together with this one */
  enum kind kind;
  struct disk *disk;
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

/* What one descriptor occupies and what waits for it; one set for flushes, one for all else. A
 * descriptor has one while jobs wait or threads are busy with it. Threads count and not jobs: a
 * transfer may end while the thread that began it has not come back from the kernel. */
enum set { SET_FLUSHES, SET_OTHERS, SETS };

struct disk {
  struct disk *next; /* of the same bucket, or free */
  int fd;
  uint32_t busy[SETS];
  struct list waiting[SETS]; /* may not begin yet */
};

/* Descriptors are small numbers, so hardly ever do two share a bucket. */
enum { BUCKETS = 256 };

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
  struct disk *disks;
  struct disk *free_disks;
  struct disk *buckets[BUCKETS];
  struct list ready;   /* may begin, and are left to a thread */
  uint32_t busy_count; /* threads that are busy or have to be: those of all disks */
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

static struct job *take_first(struct list *list) {
  struct job *job = list->first;
  list->first = job->next;
  if (list->first == NULL) {
    list->last = NULL;
  }
  job->next = NULL;
  return job;
}

struct chelper *chelper_create(uint32_t jobs, uint32_t transfers, int wake, int32_t *error) {
  struct chelper *helper = calloc(1, sizeof *helper);
  struct job *room = calloc(jobs, sizeof *room);
  /* Each job that waits and each busy thread may have a descriptor of its own. */
  size_t disk_count = (size_t)jobs + CHELPER_THREADS;
  struct disk *disks = calloc(disk_count, sizeof *disks);
  if (helper == NULL || room == NULL || disks == NULL) {
    free(helper);
    free(room);
    free(disks);
    *error = ENOMEM;
    return NULL;
  }
  helper->wake = wake;
  helper->jobs = room;
  helper->disks = disks;
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
  for (size_t index = 0; index < disk_count; index++) {
    disks[index].next = helper->free_disks;
    helper->free_disks = &disks[index];
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
  free(helper->disks);
  free(helper);
}

/* The threads. */

static enum set set_of(const struct job *job) {
  return job->kind == KIND_DATASYNC ? SET_FLUSHES : SET_OTHERS;
}

static struct disk *disk_of(struct chelper *helper, int fd) {
  struct disk **bucket = &helper->buckets[(unsigned)fd % BUCKETS];
  struct disk *disk = *bucket;
  while (disk != NULL && disk->fd != fd) {
    disk = disk->next;
  }
  if (disk == NULL) {
    disk = helper->free_disks;
    helper->free_disks = disk->next;
    *disk = (struct disk){.next = *bucket, .fd = fd};
    *bucket = disk;
  }
  return disk;
}

/* Frees the disk of which nothing is left. What waits does so because a thread is busy with it. */
static void free_if_idle(struct chelper *helper, struct disk *disk) {
  if (disk->busy[SET_FLUSHES] + disk->busy[SET_OTHERS] > 0) {
    return;
  }
  struct disk **link = &helper->buckets[(unsigned)disk->fd % BUCKETS];
  while (*link != disk) {
    link = &(*link)->next;
  }
  *link = disk->next;
  disk->next = helper->free_disks;
  helper->free_disks = disk;
}

/* Whether a thread may begin the job now: see the limits of a descriptor in the header. */
static bool may_begin(const struct job *job) {
  enum set set = set_of(job);
  return job->disk->busy[set] < (set == SET_FLUSHES ? 1 : CHELPER_TRANSFERS);
}

/* Leaves the job, which may begin, to a thread. */
static void make_ready(struct chelper *helper, struct job *job) {
  job->disk->busy[set_of(job)]++;
  helper->busy_count++;
  append(&helper->ready, job);
}

/* Makes the oldest job that waited for this thread ready; a flush with all others of its
 * descriptor, which were given before it begins and so are covered by it. */
static void make_next_ready(struct chelper *helper, struct disk *disk, enum set set) {
  struct list *waiting = &disk->waiting[set];
  if (waiting->first == NULL) {
    return;
  }
  struct job *job = take_first(waiting);
  if (set == SET_FLUSHES) {
    job->others = waiting->first;
    *waiting = (struct list){NULL, NULL};
  }
  make_ready(helper, job);
}

/* A thread is done with a job of the disk. */
static void leave(struct chelper *helper, struct disk *disk, enum set set) {
  disk->busy[set]--;
  helper->busy_count--;
  make_next_ready(helper, disk, set);
  free_if_idle(helper, disk);
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
    struct job *job = take_first(&helper->ready);
    struct disk *disk = job->disk;
    enum set set = set_of(job);
    pthread_mutex_unlock(&helper->mutex);
    /* Once it was begun, the job is no longer this thread's. */
    bool begun = begin(helper, job);
    int32_t result = begun ? 0 : carry_out(job);
    pthread_mutex_lock(&helper->mutex);
    if (!begun) {
      finish(helper, job, result);
    }
    /* What becomes ready is left to this thread, which looks now. */
    leave(helper, disk, set);
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
  pthread_attr_setstacksize(&attributes, 128 << 10);
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
  finish(helper, job, -error);
  leave(helper, job->disk, set_of(job));
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
  job->disk = disk_of(helper, job->fd);
  bool begins = may_begin(job);
  if (begins) {
    make_ready(helper, job);
  } else {
    append(&job->disk->waiting[set_of(job)], job);
  }
  /* With a thread for each that has to be busy there is one that sleeps, or is about to look. */
  bool needs_thread = begins && helper->thread_count < helper->busy_count &&
                      helper->thread_count < CHELPER_THREADS;
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
  struct job *job = take_first(&helper->collected);
  *tag = job->tag;
  *result = job->result;
  job->next = helper->free;
  helper->free = job;
  helper->given_count--;
  return 1;
}
