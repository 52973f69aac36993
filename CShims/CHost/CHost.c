#define _GNU_SOURCE
#include "CHost.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

_Static_assert(CHOST_KEEP_SIZE == FALLOC_FL_KEEP_SIZE, "mode of the kernel");
_Static_assert(CHOST_PUNCH_HOLE == FALLOC_FL_PUNCH_HOLE, "mode of the kernel");
_Static_assert(CHOST_ZERO_RANGE == FALLOC_FL_ZERO_RANGE, "mode of the kernel");

int chost_eventfd(void) {
  int descriptor = eventfd(0, EFD_CLOEXEC);
  return descriptor < 0 ? -errno : descriptor;
}

int chost_o_direct(void) { return O_DIRECT; }

int64_t chost_block_device_bytes(int descriptor) {
  uint64_t bytes = 0;
  return ioctl(descriptor, BLKGETSIZE64, &bytes) < 0 ? -errno : (int64_t)bytes;
}

int32_t chost_block_device_sector(int descriptor) {
  int bytes = 0;
  return ioctl(descriptor, BLKSSZGET, &bytes) < 0 ? -errno : bytes;
}

int64_t chost_file_system_magic(int descriptor) {
  struct statfs found;
  return fstatfs(descriptor, &found) < 0 ? -errno : (int64_t)(uint32_t)found.f_type;
}
