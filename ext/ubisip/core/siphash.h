/* SPDX-License-Identifier: Apache-2.0
 * SipHash-2-4 (Aumasson, Bernstein 2012), and the lower-case hex its tags are written in. All of it is inlined, so that the
 * state of a hash stays in registers. */
#ifndef UBISIP_SIPHASH_H
#define UBISIP_SIPHASH_H
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define SIPHASH_INLINE static inline __attribute__((always_inline))

typedef struct {
  uint64_t v0, v1, v2, v3;
  uint64_t tail; /* octets not yet a whole word */
  uint32_t length;
} SipHash;

SIPHASH_INLINE uint64_t siphash_rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

SIPHASH_INLINE void siphash_round(SipHash *h) {
  h->v0 += h->v1;
  h->v1 = siphash_rotate(h->v1, 13) ^ h->v0;
  h->v0 = siphash_rotate(h->v0, 32);
  h->v2 += h->v3;
  h->v3 = siphash_rotate(h->v3, 16) ^ h->v2;
  h->v0 += h->v3;
  h->v3 = siphash_rotate(h->v3, 21) ^ h->v0;
  h->v2 += h->v1;
  h->v1 = siphash_rotate(h->v1, 17) ^ h->v2;
  h->v2 = siphash_rotate(h->v2, 32);
}

SIPHASH_INLINE void siphash_word(SipHash *h, uint64_t word) {
  h->v3 ^= word;
  siphash_round(h);
  siphash_round(h);
  h->v0 ^= word;
}

SIPHASH_INLINE void siphash_init(SipHash *h, const uint64_t *key) {
  h->v0 = key[0] ^ 0x736F6D6570736575ull;
  h->v1 = key[1] ^ 0x646F72616E646F6Dull;
  h->v2 = key[0] ^ 0x6C7967656E657261ull;
  h->v3 = key[1] ^ 0x7465646279746573ull;
  h->tail = 0;
  h->length = 0;
}

/* Hash octets. They are read a word at a time: seven octets beyond the last must be readable. */
SIPHASH_INLINE void siphash_add(SipHash *h, const uint8_t *data, uint32_t length) {
  uint32_t shift = 8 * (h->length & 7), left = length;
  uint64_t word, tail = h->tail;
  h->length += length;
  for (; left >= 8; data += 8, left -= 8) {
    memcpy(&word, data, 8);
    siphash_word(h, tail | word << shift);
    tail = word >> 1 >> (63 - shift); /* in two steps: a shift by 64 is not defined */
  }
  if (left) {
    memcpy(&word, data, 8);
    word &= ((uint64_t)1 << 8 * left) - 1;
    tail |= word << shift;
    shift += 8 * left;
    if (shift >= 64) {
      siphash_word(h, tail);
      shift -= 64;
      tail = shift ? word >> (8 * left - shift) : 0;
    }
  }
  h->tail = tail;
}

SIPHASH_INLINE void siphash_add_number(SipHash *h, uint64_t number) { siphash_add(h, (const uint8_t *)&number, 8); }

SIPHASH_INLINE uint64_t siphash_end(SipHash *h) {
  siphash_word(h, h->tail | (uint64_t)(h->length & 0xFF) << 56);
  h->v2 ^= 0xFF;
  siphash_round(h);
  siphash_round(h);
  siphash_round(h);
  siphash_round(h);
  return h->v0 ^ h->v1 ^ h->v2 ^ h->v3;
}

/* The lowest digits of a number, 16 at most, lower case. */
SIPHASH_INLINE void write_hex(uint64_t value, uint32_t digits, char *out) {
  char text[16];
#if defined(__SSE2__)
  /* The half octets, the highest first; then 0 to 9 become figures, 10 to 15 letters. */
  __m128i octets = _mm_cvtsi64_si128((long long)__builtin_bswap64(value)), low = _mm_set1_epi8(15);
  __m128i halves = _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(octets, 4), low), _mm_and_si128(octets, low));
  __m128i letters = _mm_and_si128(_mm_cmpgt_epi8(halves, _mm_set1_epi8(9)), _mm_set1_epi8('a' - '0' - 10));
  _mm_storeu_si128((__m128i *)text, _mm_add_epi8(_mm_add_epi8(halves, letters), _mm_set1_epi8('0')));
#else
  for (int i = 15; i >= 0; i--, value >>= 4) text[i] = "0123456789abcdef"[value & 15];
#endif
  memcpy(out, text + 16 - digits, digits);
}

/* Lower-case digits only, 16 at most: one text for one value. 0: there is something else among them. */
SIPHASH_INLINE int read_hex(const uint8_t *data, uint32_t digits, uint64_t *out) {
  uint8_t text[16] = {'0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0'};
  memcpy(text + 16 - digits, data, digits);
#if defined(__SSE2__)
  __m128i octets = _mm_loadu_si128((const __m128i *)text);
  __m128i figure = _mm_sub_epi8(octets, _mm_set1_epi8('0')), letter = _mm_sub_epi8(octets, _mm_set1_epi8('a'));
  __m128i is_figure = _mm_cmpeq_epi8(_mm_min_epu8(figure, _mm_set1_epi8(9)), figure);
  __m128i is_letter = _mm_cmpeq_epi8(_mm_min_epu8(letter, _mm_set1_epi8(5)), letter);
  __m128i value = _mm_or_si128(_mm_and_si128(is_figure, figure),
                               _mm_and_si128(is_letter, _mm_add_epi8(letter, _mm_set1_epi8(10))));
  /* Two digits lie in each sixteen bits, the higher one first. */
  value = _mm_and_si128(_mm_or_si128(_mm_slli_epi16(value, 4), _mm_srli_epi16(value, 8)), _mm_set1_epi16(0xFF));
  *out = __builtin_bswap64((uint64_t)_mm_cvtsi128_si64(_mm_packus_epi16(value, value)));
  return _mm_movemask_epi8(_mm_or_si128(is_figure, is_letter)) == 0xFFFF;
#else
  uint64_t value = 0;
  int sound = 1;
  for (int i = 0; i < 16; i++) {
    uint8_t c = text[i];
    sound &= (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    value = value << 4 | ((c & 15) + (c >= 'a' ? 9 : 0));
  }
  *out = value;
  return sound;
#endif
}
#endif
