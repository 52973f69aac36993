/* Linux calls and constants that Swift's Glibc module does not have. Each is one system call. */
#ifndef CHOST_H
#define CHOST_H

#include <stdint.h>

/* Modes of fallocate(2). */
#define CHOST_KEEP_SIZE 1
#define CHOST_PUNCH_HOLE 2
#define CHOST_ZERO_RANGE 16

/* A counter that threads add to and a reactor reads: eventfd(2), closed on exec. Or -errno. */
int chost_eventfd(void);

/* O_DIRECT of this architecture: its value differs between x86 and ARM. */
int chost_o_direct(void);

/* The size in bytes of an open block device, or the negative errno. */
int64_t chost_block_device_bytes(int descriptor);

/* The logical sector size of an open block device, or the negative errno. */
int32_t chost_block_device_sector(int descriptor);

/* The magic number of the file system an open file is on, or the negative errno. */
int64_t chost_file_system_magic(int descriptor);

#endif
