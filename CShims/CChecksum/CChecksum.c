#include "CChecksum.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0x82F63B78u

/* Slicing by eight: table[k][b] is the checksum of byte b followed by k zero bytes. */
static uint32_t table[8][256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; bit++) {
      value = (value & 1) ? (value >> 1) ^ POLYNOMIAL : value >> 1;
    }
    table[0][byte] = value;
  }
  for (uint32_t byte = 0; byte < 256; byte++) {
    for (int k = 1; k < 8; k++) {
      uint32_t previous = table[k - 1][byte];
      table[k][byte] = (previous >> 8) ^ table[0][previous & 0xff];
    }
  }
}

uint32_t cchecksum_crc32c_software(uint32_t seed, const void *bytes, size_t length) {
  pthread_once(&table_once, make_table);
  const uint8_t *next = bytes;
  uint32_t crc = ~seed;
  while (length >= 8) {
    /* Bytes, not words: the result must not depend on the byte order of the machine. */
    uint32_t low = crc ^ ((uint32_t)next[0] | (uint32_t)next[1] << 8 | (uint32_t)next[2] << 16 |
                          (uint32_t)next[3] << 24);
    crc = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^ table[5][low >> 16 & 0xff] ^
          table[4][low >> 24] ^ table[3][next[4]] ^ table[2][next[5]] ^ table[1][next[6]] ^
          table[0][next[7]];
    next += 8;
    length -= 8;
  }
  while (length > 0) {
    crc = (crc >> 8) ^ table[0][(crc ^ *next) & 0xff];
    next++;
    length--;
  }
  return ~crc;
}

#if defined(__x86_64__)

#include <immintrin.h>

static inline uint64_t load64(const uint8_t *from) {
  uint64_t value;
  memcpy(&value, from, sizeof value);
  return value;
}

__attribute__((target("sse4.2"))) static uint32_t crc_one_stream(uint32_t crc, const uint8_t *next,
                                                                 size_t length) {
  uint64_t wide = crc;
  while (length >= 8) {
    wide = _mm_crc32_u64(wide, load64(next));
    next += 8;
    length -= 8;
  }
  crc = (uint32_t)wide;
  while (length > 0) {
    crc = _mm_crc32_u8(crc, *next);
    next++;
    length--;
  }
  return crc;
}

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t seed, const void *bytes,
                                                            size_t length) {
  return ~crc_one_stream(~seed, bytes, length);
}

/* x^(8n-33) modulo the polynomial, reflected: multiplying a checksum by it (and reducing, which
 * the instruction does) is the same as feeding n zero bytes. The instruction takes three cycles
 * and starts one a cycle, so three independent streams are joined with it. A stream of 1344 bytes
 * makes 4032 of a 4096-byte block; one of 168 makes 504 of a 512-byte sector. */
#define LONG_STREAM 1344
#define LONG_SHIFT_1 0xc9c8b782u
#define LONG_SHIFT_2 0x889774e1u
#define SHORT_STREAM 168
#define SHORT_SHIFT_1 0x1b3d8f29u
#define SHORT_SHIFT_2 0xa60ce07bu

__attribute__((target("sse4.2,pclmul"))) static inline uint64_t shifted(uint32_t crc,
                                                                        uint32_t factor) {
  __m128i product =
      _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)crc), _mm_cvtsi32_si128((int)factor), 0);
  return (uint64_t)_mm_cvtsi128_si64(product);
}

__attribute__((target("sse4.2,pclmul"))) static inline uint32_t
crc_three_streams(uint32_t crc, const uint8_t *next, size_t stream, uint32_t shift1,
                  uint32_t shift2) {
  uint64_t first = crc;
  uint64_t second = 0;
  uint64_t third = 0;
  for (size_t at = 0; at < stream; at += 8) {
    first = _mm_crc32_u64(first, load64(next + at));
    second = _mm_crc32_u64(second, load64(next + stream + at));
    third = _mm_crc32_u64(third, load64(next + 2 * stream + at));
  }
  uint64_t joined = shifted((uint32_t)first, shift2) ^ shifted((uint32_t)second, shift1);
  return (uint32_t)_mm_crc32_u64(0, joined) ^ (uint32_t)third;
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t crc_sse42_pclmul(uint32_t seed,
                                                                          const void *bytes,
                                                                          size_t length) {
  const uint8_t *next = bytes;
  uint32_t crc = ~seed;
  while (length >= 3 * LONG_STREAM) {
    crc = crc_three_streams(crc, next, LONG_STREAM, LONG_SHIFT_1, LONG_SHIFT_2);
    next += 3 * LONG_STREAM;
    length -= 3 * LONG_STREAM;
  }
  while (length >= 3 * SHORT_STREAM) {
    crc = crc_three_streams(crc, next, SHORT_STREAM, SHORT_SHIFT_1, SHORT_SHIFT_2);
    next += 3 * SHORT_STREAM;
    length -= 3 * SHORT_STREAM;
  }
  return ~crc_one_stream(crc, next, length);
}

#elif defined(__aarch64__)

#include <arm_acle.h>
#include <sys/auxv.h>

#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif

__attribute__((target("+crc"))) static uint32_t crc_armv8(uint32_t seed, const void *bytes,
                                                          size_t length) {
  const uint8_t *next = bytes;
  uint32_t crc = ~seed;
  while (length >= 8) {
    uint64_t value;
    memcpy(&value, next, sizeof value);
    crc = __crc32cd(crc, value);
    next += 8;
    length -= 8;
  }
  while (length > 0) {
    crc = __crc32cb(crc, *next);
    next++;
    length--;
  }
  return ~crc;
}

#endif

typedef uint32_t (*crc_function)(uint32_t, const void *, size_t);

struct choice {
  crc_function function;
  const char *name;
};

static struct choice choose(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul")) {
    return (struct choice){crc_sse42_pclmul, "sse4.2+pclmul"};
  }
  if (__builtin_cpu_supports("sse4.2")) {
    return (struct choice){crc_sse42, "sse4.2"};
  }
#elif defined(__aarch64__)
  if (getauxval(AT_HWCAP) & HWCAP_CRC32) {
    return (struct choice){crc_armv8, "armv8"};
  }
#endif
  return (struct choice){cchecksum_crc32c_software, "software"};
}

/* Set before main, so that calls need neither a lock nor a check. */
static struct choice chosen = {cchecksum_crc32c_software, "software"};

__attribute__((constructor)) static void choose_at_start(void) { chosen = choose(); }

uint32_t cchecksum_crc32c(uint32_t seed, const void *bytes, size_t length) {
  return chosen.function(seed, bytes, length);
}

const char *cchecksum_crc32c_implementation(void) { return chosen.name; }
