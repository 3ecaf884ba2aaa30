/* SPDX-License-Identifier: Apache-2.0
 * The hashes of digest authentication (RFC 7616, RFC 8760): MD5 (RFC 1321), SHA-256 and SHA-512/256 (FIPS 180-4).
 * Our own, because the path of a call has no GIL, which hashlib needs, and building the core needs no libcrypto. */
#ifndef UBISIP_DIGEST_H
#define UBISIP_DIGEST_H
#include <stdint.h>
#include <string.h>

enum digest_algorithm { ALGORITHM_MD5, ALGORITHM_SHA256, ALGORITHM_SHA512_256, ALGORITHMS };

#define DIGEST_MOST 32 /* octets of the longest hash */

typedef struct {
  union {
    uint32_t word[8];
    uint64_t wide[8]; /* SHA-512/256 */
  } state;
  uint64_t length;    /* octets hashed so far */
  uint8_t block[128]; /* those not yet a whole block */
  int algorithm;
} digest_state;

/* RFC 1321 section 3.4: the integer parts of 2**32 * abs(sin(i)). */
static const uint32_t MD5_SINE[64] = {
    0xd76aa478u, 0xe8c7b756u, 0x242070dbu, 0xc1bdceeeu, 0xf57c0fafu, 0x4787c62au, 0xa8304613u, 0xfd469501u,
    0x698098d8u, 0x8b44f7afu, 0xffff5bb1u, 0x895cd7beu, 0x6b901122u, 0xfd987193u, 0xa679438eu, 0x49b40821u,
    0xf61e2562u, 0xc040b340u, 0x265e5a51u, 0xe9b6c7aau, 0xd62f105du, 0x02441453u, 0xd8a1e681u, 0xe7d3fbc8u,
    0x21e1cde6u, 0xc33707d6u, 0xf4d50d87u, 0x455a14edu, 0xa9e3e905u, 0xfcefa3f8u, 0x676f02d9u, 0x8d2a4c8au,
    0xfffa3942u, 0x8771f681u, 0x6d9d6122u, 0xfde5380cu, 0xa4beea44u, 0x4bdecfa9u, 0xf6bb4b60u, 0xbebfbc70u,
    0x289b7ec6u, 0xeaa127fau, 0xd4ef3085u, 0x04881d05u, 0xd9d4d039u, 0xe6db99e5u, 0x1fa27cf8u, 0xc4ac5665u,
    0xf4292244u, 0x432aff97u, 0xab9423a7u, 0xfc93a039u, 0x655b59c3u, 0x8f0ccc92u, 0xffeff47du, 0x85845dd1u,
    0x6fa87e4fu, 0xfe2ce6e0u, 0xa3014314u, 0x4e0811a1u, 0xf7537e82u, 0xbd3af235u, 0x2ad7d2bbu, 0xeb86d391u,
};

/* FIPS 180-4 section 4.2.3; their upper halves are the constants of SHA-256 (section 4.2.2). */
static const uint64_t SHA2_ROOT[80] = {
    0x428a2f98d728ae22ull, 0x7137449123ef65cdull, 0xb5c0fbcfec4d3b2full, 0xe9b5dba58189dbbcull, 0x3956c25bf348b538ull,
    0x59f111f1b605d019ull, 0x923f82a4af194f9bull, 0xab1c5ed5da6d8118ull, 0xd807aa98a3030242ull, 0x12835b0145706fbeull,
    0x243185be4ee4b28cull, 0x550c7dc3d5ffb4e2ull, 0x72be5d74f27b896full, 0x80deb1fe3b1696b1ull, 0x9bdc06a725c71235ull,
    0xc19bf174cf692694ull, 0xe49b69c19ef14ad2ull, 0xefbe4786384f25e3ull, 0x0fc19dc68b8cd5b5ull, 0x240ca1cc77ac9c65ull,
    0x2de92c6f592b0275ull, 0x4a7484aa6ea6e483ull, 0x5cb0a9dcbd41fbd4ull, 0x76f988da831153b5ull, 0x983e5152ee66dfabull,
    0xa831c66d2db43210ull, 0xb00327c898fb213full, 0xbf597fc7beef0ee4ull, 0xc6e00bf33da88fc2ull, 0xd5a79147930aa725ull,
    0x06ca6351e003826full, 0x142929670a0e6e70ull, 0x27b70a8546d22ffcull, 0x2e1b21385c26c926ull, 0x4d2c6dfc5ac42aedull,
    0x53380d139d95b3dfull, 0x650a73548baf63deull, 0x766a0abb3c77b2a8ull, 0x81c2c92e47edaee6ull, 0x92722c851482353bull,
    0xa2bfe8a14cf10364ull, 0xa81a664bbc423001ull, 0xc24b8b70d0f89791ull, 0xc76c51a30654be30ull, 0xd192e819d6ef5218ull,
    0xd69906245565a910ull, 0xf40e35855771202aull, 0x106aa07032bbd1b8ull, 0x19a4c116b8d2d0c8ull, 0x1e376c085141ab53ull,
    0x2748774cdf8eeb99ull, 0x34b0bcb5e19b48a8ull, 0x391c0cb3c5c95a63ull, 0x4ed8aa4ae3418acbull, 0x5b9cca4f7763e373ull,
    0x682e6ff3d6b2b8a3ull, 0x748f82ee5defb2fcull, 0x78a5636f43172f60ull, 0x84c87814a1f0ab72ull, 0x8cc702081a6439ecull,
    0x90befffa23631e28ull, 0xa4506cebde82bde9ull, 0xbef9a3f7b2c67915ull, 0xc67178f2e372532bull, 0xca273eceea26619cull,
    0xd186b8c721c0c207ull, 0xeada7dd6cde0eb1eull, 0xf57d4f7fee6ed178ull, 0x06f067aa72176fbaull, 0x0a637dc5a2c898a6ull,
    0x113f9804bef90daeull, 0x1b710b35131c471bull, 0x28db77f523047d84ull, 0x32caab7b40c72493ull, 0x3c9ebe0a15c9bebcull,
    0x431d67c49c100d4cull, 0x4cc5d4becb3e42b6ull, 0x597f299cfc657e2aull, 0x5fcb6fab3ad6faecull, 0x6c44198c4a475817ull,
};

static const uint32_t MD5_START[4] = {0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u};
static const uint32_t SHA256_START[8] = {
    0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au, 0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u,
};
static const uint64_t SHA512_256_START[8] = {
    0x22312194fc2bf72cull, 0x9f555fa3c84c64c2ull, 0x2393b86b6f53b151ull, 0x963877195940eabdull,
    0x96283ee2a88effe3ull, 0xbe5e1e2553863992ull, 0x2b0199fc2c85b8aaull, 0x0eb72ddc81c52ca2ull,
};

#define ROTATE_LEFT(x, bits) ((x) << (bits) | (x) >> (32 - (bits)))

/* Step i of 64: a round says which word it takes, factor * i + offset, and how far each of its four steps rotates. */
#define MD5_STEP(F, a, b, c, d, word, i, bits) \
  a += F(b, c, d) + w[(word) & 15] + MD5_SINE[i]; \
  a = b + ROTATE_LEFT(a, bits);
#define MD5_ROUND(F, first, factor, offset, r0, r1, r2, r3)                       \
  for (int i = first; i < first + 16; i += 4) {                                   \
    MD5_STEP(F, a, b, c, d, factor * i + offset, i, r0)                           \
    MD5_STEP(F, d, a, b, c, factor * (i + 1) + offset, i + 1, r1)                 \
    MD5_STEP(F, c, d, a, b, factor * (i + 2) + offset, i + 2, r2)                 \
    MD5_STEP(F, b, c, d, a, factor * (i + 3) + offset, i + 3, r3)                 \
  }
#define MD5_F(x, y, z) (z ^ (x & (y ^ z)))
#define MD5_G(x, y, z) ((x & z) + (y & ~z)) /* a sum: the half without x need not wait for x, which comes last */
#define MD5_H(x, y, z) (x ^ y ^ z)
#define MD5_I(x, y, z) (y ^ (x | ~z))

static inline uint32_t digest_little(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint32_t digest_big(const uint8_t *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

static inline uint64_t digest_big_wide(const uint8_t *p) { return (uint64_t)digest_big(p) << 32 | digest_big(p + 4); }

static inline void digest_store_big(uint8_t *out, uint32_t word) {
  for (int i = 0; i < 4; i++) out[i] = (uint8_t)(word >> (24 - 8 * i));
}

static inline void md5_block(uint32_t *state, const uint8_t *block) {
  uint32_t w[16], a = state[0], b = state[1], c = state[2], d = state[3];
  for (int i = 0; i < 16; i++) w[i] = digest_little(block + 4 * i);
  MD5_ROUND(MD5_F, 0, 1, 0, 7, 12, 17, 22)
  MD5_ROUND(MD5_G, 16, 5, 1, 5, 9, 14, 20)
  MD5_ROUND(MD5_H, 32, 3, 5, 4, 11, 16, 23)
  MD5_ROUND(MD5_I, 48, 7, 0, 6, 10, 15, 21)
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
}

/* One round; the caller rotates the names instead of the values. */
#define SHA2_ROUND(a, b, c, d, e, f, g, h, i)                                                  \
  h += SHA2_BIG1(e) + (g ^ (e & (f ^ g))) + SHA2_CONSTANT(step + i) + w[i];                    \
  d += h;                                                                                      \
  h += SHA2_BIG0(a) + ((a & b) | (c & (a | b)));
#define SHA2_EIGHT(i)                                                                          \
  SHA2_ROUND(a, b, c, d, e, f, g, h, i) SHA2_ROUND(h, a, b, c, d, e, f, g, i + 1)              \
  SHA2_ROUND(g, h, a, b, c, d, e, f, i + 2) SHA2_ROUND(f, g, h, a, b, c, d, e, i + 3)          \
  SHA2_ROUND(e, f, g, h, a, b, c, d, i + 4) SHA2_ROUND(d, e, f, g, h, a, b, c, i + 5)          \
  SHA2_ROUND(c, d, e, f, g, h, a, b, i + 6) SHA2_ROUND(b, c, d, e, f, g, h, a, i + 7)
/* FIPS 180-4 sections 6.2.2 and 6.4.2: the same but for the word, the rounds and the functions. */
#define SHA2_BODY(NAME, WORD, ROUNDS, LOAD)                                                    \
  static inline void NAME(WORD *state, const uint8_t *block) {                                 \
    WORD w[16], a = state[0], b = state[1], c = state[2], d = state[3];                        \
    WORD e = state[4], f = state[5], g = state[6], h = state[7];                               \
    for (int i = 0; i < 16; i++) w[i] = LOAD(block + sizeof(WORD) * (unsigned)i);              \
    for (int step = 0;;) {                                                                     \
      SHA2_EIGHT(0)                                                                            \
      SHA2_EIGHT(8)                                                                            \
      step += 16;                                                                              \
      if (step == ROUNDS) break;                                                               \
      for (int i = 0; i < 16; i++)                                                             \
        w[i] += SHA2_SMALL1(w[(i + 14) & 15]) + w[(i + 9) & 15] + SHA2_SMALL0(w[(i + 1) & 15]); \
    }                                                                                          \
    state[0] += a;                                                                             \
    state[1] += b;                                                                             \
    state[2] += c;                                                                             \
    state[3] += d;                                                                             \
    state[4] += e;                                                                             \
    state[5] += f;                                                                             \
    state[6] += g;                                                                             \
    state[7] += h;                                                                             \
  }

#define ROTATE(x, bits) ((x) >> (bits) | (x) << (8 * sizeof(x) - (bits)))
#define SHA2_BIG0(x) (ROTATE(x, 2) ^ ROTATE(x, 13) ^ ROTATE(x, 22))
#define SHA2_BIG1(x) (ROTATE(x, 6) ^ ROTATE(x, 11) ^ ROTATE(x, 25))
#define SHA2_SMALL0(x) (ROTATE(x, 7) ^ ROTATE(x, 18) ^ (x) >> 3)
#define SHA2_SMALL1(x) (ROTATE(x, 17) ^ ROTATE(x, 19) ^ (x) >> 10)
#define SHA2_CONSTANT(i) ((uint32_t)(SHA2_ROOT[i] >> 32))
SHA2_BODY(sha256_block, uint32_t, 64, digest_big)
#undef SHA2_BIG0
#undef SHA2_BIG1
#undef SHA2_SMALL0
#undef SHA2_SMALL1
#undef SHA2_CONSTANT
#define SHA2_BIG0(x) (ROTATE(x, 28) ^ ROTATE(x, 34) ^ ROTATE(x, 39))
#define SHA2_BIG1(x) (ROTATE(x, 14) ^ ROTATE(x, 18) ^ ROTATE(x, 41))
#define SHA2_SMALL0(x) (ROTATE(x, 1) ^ ROTATE(x, 8) ^ (x) >> 7)
#define SHA2_SMALL1(x) (ROTATE(x, 19) ^ ROTATE(x, 61) ^ (x) >> 6)
#define SHA2_CONSTANT(i) (SHA2_ROOT[i])
SHA2_BODY(sha512_block, uint64_t, 80, digest_big_wide)

/* Octets of a hash of the algorithm. */
static inline uint32_t digest_size(int algorithm) { return algorithm == ALGORITHM_MD5 ? 16 : 32; }

static inline void digest_init(digest_state *d, int algorithm) {
  d->algorithm = algorithm;
  d->length = 0;
  switch (algorithm) {
    case ALGORITHM_MD5: memcpy(d->state.word, MD5_START, sizeof MD5_START); break;
    case ALGORITHM_SHA256: memcpy(d->state.word, SHA256_START, sizeof SHA256_START); break;
    default: memcpy(d->state.wide, SHA512_256_START, sizeof SHA512_256_START);
  }
}

static inline void digest_block(digest_state *d, const uint8_t *block) {
  switch (d->algorithm) {
    case ALGORITHM_MD5: md5_block(d->state.word, block); break;
    case ALGORITHM_SHA256: sha256_block(d->state.word, block); break;
    default: sha512_block(d->state.wide, block);
  }
}

static inline uint32_t digest_block_size(const digest_state *d) {
  return d->algorithm == ALGORITHM_SHA512_256 ? 128 : 64;
}

static inline void digest_add(digest_state *d, const uint8_t *data, uint32_t length) {
  uint32_t size = digest_block_size(d), held = (uint32_t)d->length & (size - 1);
  d->length += length;
  if (held) {
    uint32_t taken = length < size - held ? length : size - held;
    memcpy(d->block + held, data, taken);
    if (held + taken < size) return;
    digest_block(d, d->block);
    data += taken;
    length -= taken;
  }
  for (; length >= size; data += size, length -= size) digest_block(d, data);
  memcpy(d->block, data, length);
}

/* Write the hash, digest_size() octets; the state is spent. */
static inline void digest_end(digest_state *d, uint8_t *out) {
  uint32_t size = digest_block_size(d), held = (uint32_t)d->length & (size - 1);
  uint64_t bits = d->length * 8;
  d->block[held++] = 0x80;
  if (held > size - size / 8) { /* no room for the length, an eighth of a block */
    memset(d->block + held, 0, size - held);
    digest_block(d, d->block);
    held = 0;
  }
  memset(d->block + held, 0, size - held);
  for (uint32_t i = 0; i < 8; i++) /* little-endian in RFC 1321, big-endian in FIPS 180-4 */
    d->block[d->algorithm == ALGORITHM_MD5 ? size - 8 + i : size - 1 - i] = (uint8_t)(bits >> (8 * i));
  digest_block(d, d->block);
  for (uint32_t i = 0; i < digest_size(d->algorithm) / 4; i++) {
    if (d->algorithm == ALGORITHM_MD5) {
      for (uint32_t j = 0; j < 4; j++) out[4 * i + j] = (uint8_t)(d->state.word[i] >> (8 * j));
    } else if (d->algorithm == ALGORITHM_SHA256) {
      digest_store_big(out + 4 * i, d->state.word[i]);
    } else {
      digest_store_big(out + 4 * i, (uint32_t)(d->state.wide[i / 2] >> (i & 1 ? 0 : 32)));
    }
  }
}

/* Hash a hash in hex, as it enters the next one (RFC 7616 section 3.4). */
static inline void digest_add_hex(digest_state *d, const uint8_t *hash, uint32_t length) {
  uint8_t text[2 * DIGEST_MOST];
  for (uint32_t i = 0; i < length; i++) {
    text[2 * i] = (uint8_t)"0123456789abcdef"[hash[i] >> 4];
    text[2 * i + 1] = (uint8_t)"0123456789abcdef"[hash[i] & 15];
  }
  digest_add(d, text, 2 * length);
}
#endif
