/* CRC32C (Castagnoli, reflected polynomial 0x82F63B78): the checksum of wire frames, metadata and
 * data blocks; and a longer hash of blocks. Reentrant; no allocation; any alignment and length. */
#ifndef CCHECKSUM_H
#define CCHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of `length` bytes that follow data whose checksum is `seed`; 0 starts a new one.
 * crc32c(0, "123456789") is 0xE3069283. Uses the processor's instructions when it has them. */
uint32_t cchecksum_crc32c(uint32_t seed, const void *bytes, size_t length);

/* The same by table: the fallback, and what a test compares the instructions with. */
uint32_t cchecksum_crc32c_software(uint32_t seed, const void *bytes, size_t length);

/* Which way cchecksum_crc32c takes here: "sse4.2+pclmul", "sse4.2", "armv8" or "software". */
const char *cchecksum_crc32c_implementation(void);

/* XXH3 with 128 bits (Collet; xxHash 0.8) of `length` bytes with seed 0, in its canonical
 * big-endian form: a fast hash without secrets, for differences that nobody made on purpose. */
void cchecksum_xxh3_128(const void *bytes, size_t length, uint8_t digest[16]);

#endif
