/* Threads for the disk calls that may block: fdatasync, fallocate, and the transfers that the
 * kernel refused to begin without waiting. Whoever gives them jobs never waits for a disk.
 *
 * - Each job has one result. `wake` is written to when there are results to collect, which may be
 *   collected before they are told.
 * - One descriptor occupies one thread for flushes and CHELPER_TRANSFERS for all else, so that a
 *   long flush does not hold up transfers and a disk that hangs does not hold up other disks.
 * - A flush covers every transfer that was collected before the flush was given. Flushes of one
 *   descriptor that wait together are done by one call, whose result is the result of each.
 * - Threads are started when they are needed first, and sleep without a timeout when idle. There
 *   may be enough for CHELPER_DESCRIPTORS that hang at a time. Beyond, or where the host starts no
 *   more, what may begin waits for a thread, in the order in which it could have begun.
 *
 * All calls are made by one thread. Nothing here retries, allocates per job, logs or decides. */
#ifndef CHELPER_H
#define CHELPER_H

#include <stdint.h>

struct chelper;

/* Most threads that begin transfers, allocate or discard on one descriptor at a time. */
#define CHELPER_TRANSFERS 4
/* Descriptors that may hang at a time and hold up no other: two for each volume of a node. */
#define CHELPER_DESCRIPTORS 256
/* Most threads of one helper. Each that was needed once keeps some 20 KiB. */
#define CHELPER_THREADS 1280
/* In `rw_flags`: the write ends when it is on stable storage. */
#define CHELPER_DSYNC 2u
/* As `offset` of a transfer: none. For what cannot seek. */
#define CHELPER_NOWHERE UINT64_MAX

/* Sets up room for `jobs` jobs at a time. So many `transfers` at a time do not keep a thread once
 * they were begun, as far as the host has room for them (fs.aio-max-nr). `wake` is an eventfd,
 * which the caller keeps open. On failure NULL and the errno in `*error`. */
struct chelper *chelper_create(uint32_t jobs, uint32_t transfers, int wake, int32_t *error);
/* Waits for the jobs that were begun, ends the threads and frees all. Other jobs are dropped. */
void chelper_destroy(struct chelper *helper);

/* Give one job each. Return 0, or -EBUSY when there is no room. Memory stays until the result. */
int chelper_read(struct chelper *helper, int fd, void *buffer, uint32_t length, uint64_t offset,
                 uint64_t tag);
int chelper_write(struct chelper *helper, int fd, const void *buffer, uint32_t length,
                  uint64_t offset, uint32_t rw_flags, uint64_t tag);
/* fdatasync. */
int chelper_datasync(struct chelper *helper, int fd, uint64_t tag);
int chelper_fallocate(struct chelper *helper, int fd, int mode, uint64_t offset, uint64_t length,
                      uint64_t tag);

/* Collects one result, a count or -errno: 1, or 0 when there is none. */
int chelper_collect(struct chelper *helper, uint64_t *tag, int32_t *result);

#endif
