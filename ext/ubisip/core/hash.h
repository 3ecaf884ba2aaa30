/* SPDX-License-Identifier: Apache-2.0
 * A fast keyed hash for our own tables; what leaves the process in a header is signed by SipHash (token.pyx).
 * 64x64 -> 128 bit multiply and fold, sixteen octets a step, in the manner of wyhash (Wang Yi, public domain); the seed,
 * a secret, goes into both factors, so that no input can make one of them 0. */
#ifndef UBISIP_HASH_H
#define UBISIP_HASH_H
#include <stdint.h>
#include <string.h>

static inline uint64_t hash_fold(uint64_t a, uint64_t b) {
  unsigned __int128 product = (unsigned __int128)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* The octets are read by words: fifteen beyond the last must be readable. */
static inline uint64_t hash_octets(uint64_t seed, const uint8_t *data, uint32_t length) {
  uint64_t low, high;
  seed = hash_fold(seed ^ 0xa0761d6478bd642full, length ^ 0xe7037ed1a0b428dbull);
  for (; length >= 16; data += 16, length -= 16) {
    memcpy(&low, data, 8);
    memcpy(&high, data + 8, 8);
    seed = hash_fold(low ^ seed ^ 0x8ebc6af09c88c6e3ull, high ^ (seed << 23 | seed >> 41) ^ 0x589965cc75374cc3ull) ^ seed;
  }
  if (length) {
    memcpy(&low, data, 8);
    memcpy(&high, data + 8, 8);
    if (length < 8) {
      low &= (1ull << (8 * length)) - 1;
      high = 0;
    } else {
      high &= (1ull << (8 * (length - 8))) - 1;
    }
    seed = hash_fold(low ^ seed ^ 0x8ebc6af09c88c6e3ull, high ^ (seed << 23 | seed >> 41) ^ 0x1d8e4e27c47d124full) ^ seed;
  }
  return seed;
}
#endif
