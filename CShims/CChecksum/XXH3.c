/* XXH3 from xxHash's header, compiled in: nothing to link with, and no call through a table. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "CChecksum.h"

void cchecksum_xxh3_128(const void *bytes, size_t length, uint8_t digest[16]) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, length));
    for (int index = 0; index < 16; index++)
        digest[index] = canonical.digest[index];
}
