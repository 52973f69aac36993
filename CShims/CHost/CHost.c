#define _GNU_SOURCE
#include "CHost.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

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
