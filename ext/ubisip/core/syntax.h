/* SPDX-License-Identifier: Apache-2.0
 * RFC 3261 section 25.1: character classes as one table of bits. */
#ifndef UBISIP_SYNTAX_H
#define UBISIP_SYNTAX_H
#include <stdint.h>

#define CLASS_TOKEN 1 /* token = alphanum / "-" / "." / "!" / "%" / "*" / "_" / "+" / "`" / "'" / "~" */
#define CLASS_DIGIT 2
#define CLASS_HOST 4 /* alphanum / "-" / "." and "_", which real hosts have */
#define CLASS_LWS 8 /* SP, HTAB, and the CRLF of a folded line */
#define CLASS_URI 16 /* what may stand in a URI: visible ASCII but for <>"\^`{}| */
#define CLASS_ALPHA 32
#define CLASS_STOP 64 /* ends an unquoted parameter value: ";" "," DQUOTE ">" and LWS */

#define WORD (CLASS_TOKEN | CLASS_HOST | CLASS_URI)
static const uint8_t CHARACTER_CLASS[256] = {
    ['a' ... 'z'] = WORD | CLASS_ALPHA, ['A' ... 'Z'] = WORD | CLASS_ALPHA, ['0' ... '9'] = WORD | CLASS_DIGIT,
    ['-'] = WORD, ['.'] = WORD, ['_'] = WORD,
    ['!'] = CLASS_TOKEN | CLASS_URI, ['%'] = CLASS_TOKEN | CLASS_URI, ['*'] = CLASS_TOKEN | CLASS_URI,
    ['+'] = CLASS_TOKEN | CLASS_URI, ['\''] = CLASS_TOKEN | CLASS_URI, ['~'] = CLASS_TOKEN | CLASS_URI,
    ['`'] = CLASS_TOKEN,
    ['#'] = CLASS_URI, ['$'] = CLASS_URI, ['&'] = CLASS_URI, ['('] = CLASS_URI, [')'] = CLASS_URI,
    [','] = CLASS_URI | CLASS_STOP, ['"'] = CLASS_STOP, ['>'] = CLASS_STOP,
    ['/'] = CLASS_URI, [':'] = CLASS_URI, [';'] = CLASS_URI | CLASS_STOP, ['='] = CLASS_URI, ['?'] = CLASS_URI, ['@'] = CLASS_URI,
    ['['] = CLASS_URI, [']'] = CLASS_URI,
    [' '] = CLASS_LWS | CLASS_STOP, ['\t'] = CLASS_LWS | CLASS_STOP, ['\r'] = CLASS_LWS | CLASS_STOP,
    ['\n'] = CLASS_LWS | CLASS_STOP,
};
#undef WORD

#if defined(__SSE2__)
#include <emmintrin.h>
#endif
/* The first of CLASS_STOP from `at` on, `end` when there is none; reads up to fifteen octets beyond `end`. */
static inline uint32_t run_to_stop(const uint8_t *data, uint32_t at, uint32_t end) {
#if defined(__SSE2__)
  for (; at < end; at += 16) {
    /* All up to DQUOTE is looked at one by one, the three signs above it too: nearly always it is one of the class. */
    __m128i octets = _mm_loadu_si128((const __m128i *)(data + at));
    __m128i stops = _mm_or_si128(
        _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(octets, _mm_set1_epi8('"')), octets),
                     _mm_cmpeq_epi8(octets, _mm_set1_epi8(';'))),
        _mm_or_si128(_mm_cmpeq_epi8(octets, _mm_set1_epi8(',')), _mm_cmpeq_epi8(octets, _mm_set1_epi8('>'))));
    for (uint32_t mask = (uint32_t)_mm_movemask_epi8(stops); mask; mask &= mask - 1) {
      uint32_t found = at + (uint32_t)__builtin_ctz(mask);
      if (found >= end) return end;
      if (CHARACTER_CLASS[data[found]] & CLASS_STOP) return found;
    }
  }
  return end;
#else
  while (at < end && !(CHARACTER_CLASS[data[at]] & CLASS_STOP)) at++;
  return at;
#endif
}

/* The first octet from `at` on that may not stand in a URI, `end` when there is none; reads up to fifteen beyond `end`. */
static inline uint32_t run_of_uri(const uint8_t *data, uint32_t at, uint32_t end) {
#if defined(__SSE2__)
  for (; at < end; at += 16) {
    /* Letters, digits and most signs at once; what the two comparisons leave is looked at one by one. */
    __m128i octets = _mm_loadu_si128((const __m128i *)(data + at));
    __m128i odd = _mm_or_si128(
        _mm_or_si128(_mm_cmplt_epi8(octets, _mm_set1_epi8('#')), _mm_cmpgt_epi8(octets, _mm_set1_epi8('z'))),
        _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(octets, _mm_set1_epi8('<')), _mm_cmpeq_epi8(octets, _mm_set1_epi8('>'))),
                     _mm_or_si128(_mm_cmpeq_epi8(octets, _mm_set1_epi8('\\')),
                                  _mm_or_si128(_mm_cmpeq_epi8(octets, _mm_set1_epi8('^')), _mm_cmpeq_epi8(octets, _mm_set1_epi8('`'))))));
    for (uint32_t mask = (uint32_t)_mm_movemask_epi8(odd); mask; mask &= mask - 1) {
      uint32_t found = at + (uint32_t)__builtin_ctz(mask);
      if (found >= end) return end;
      if (!(CHARACTER_CLASS[data[found]] & CLASS_URI)) return found;
    }
  }
  return end;
#else
  while (at < end && (CHARACTER_CLASS[data[at]] & CLASS_URI)) at++;
  return at;
#endif
}

/* The first octet from `at` on that may not stand in a host name (CLASS_HOST), `end` when there is none; reads up to fifteen
 * beyond `end`. */
static inline uint32_t run_of_host(const uint8_t *data, uint32_t at, uint32_t end) {
#if defined(__SSE2__)
  for (; at < end; at += 16) {
    __m128i octets = _mm_loadu_si128((const __m128i *)(data + at));
    __m128i letter = _mm_sub_epi8(_mm_or_si128(octets, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
    __m128i digit = _mm_sub_epi8(octets, _mm_set1_epi8('0'));
    __m128i good = _mm_or_si128(
        _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(letter, _mm_set1_epi8(25)), letter),
                     _mm_cmpeq_epi8(_mm_min_epu8(digit, _mm_set1_epi8(9)), digit)),
        _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(octets, _mm_set1_epi8('.')), _mm_cmpeq_epi8(octets, _mm_set1_epi8('-'))),
                     _mm_cmpeq_epi8(octets, _mm_set1_epi8('_'))));
    uint32_t bad = (uint32_t)_mm_movemask_epi8(good) ^ 0xFFFF;
    if (bad) {
      at += (uint32_t)__builtin_ctz(bad);
      return at < end ? at : end;
    }
  }
  return end;
#else
  while (at < end && (CHARACTER_CLASS[data[at]] & CLASS_HOST)) at++;
  return at;
#endif
}

/* The first control character from `at` on other than HTAB, `end` when there is none; reads up to fifteen octets beyond `end`. */
static inline uint32_t run_of_text(const uint8_t *data, uint32_t at, uint32_t end) {
#if defined(__SSE2__)
  for (; at < end; at += 16) {
    __m128i octets = _mm_loadu_si128((const __m128i *)(data + at));
    __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(octets, _mm_set1_epi8(0x1F)), octets);
    __m128i control = _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(octets, _mm_set1_epi8('\t')), low),
                                   _mm_cmpeq_epi8(octets, _mm_set1_epi8(0x7F)));
    uint32_t found = (uint32_t)_mm_movemask_epi8(control);
    if (found) {
      at += (uint32_t)__builtin_ctz(found);
      return at < end ? at : end;
    }
  }
  return end;
#else
  while (at < end && (data[at] >= 0x20 || data[at] == '\t') && data[at] != 0x7F) at++;
  return at;
#endif
}

/* The first of either octet from `at` on, `end` when there is none; reads up to fifteen octets beyond `end`. */
static inline uint32_t find_either(const uint8_t *data, uint32_t at, uint32_t end, uint8_t one, uint8_t other) {
#if defined(__SSE2__)
  for (; at < end; at += 16) {
    __m128i octets = _mm_loadu_si128((const __m128i *)(data + at));
    uint32_t found = (uint32_t)_mm_movemask_epi8(_mm_or_si128(_mm_cmpeq_epi8(octets, _mm_set1_epi8((char)one)),
                                                              _mm_cmpeq_epi8(octets, _mm_set1_epi8((char)other))));
    if (found) {
      at += (uint32_t)__builtin_ctz(found);
      return at < end ? at : end;
    }
  }
  return end;
#else
  while (at < end && data[at] != one && data[at] != other) at++;
  return at;
#endif
}

/* The first `wanted` from `at` on, `end` when there is none; reads up to fifteen octets beyond `end`. */
static inline uint32_t find_octet(const uint8_t *data, uint32_t at, uint32_t end, uint8_t wanted) {
  return find_either(data, at, end, wanted, wanted);
}

/* Value of a lower-case hex digit; 255 for anything else. */
static const uint8_t HEX_VALUE[256] = {
    [0 ... 255] = 255, ['0'] = 0, ['1'] = 1, ['2'] = 2, ['3'] = 3, ['4'] = 4, ['5'] = 5, ['6'] = 6, ['7'] = 7, ['8'] = 8,
    ['9'] = 9, ['a'] = 10, ['b'] = 11, ['c'] = 12, ['d'] = 13, ['e'] = 14, ['f'] = 15,
};

static inline int character_is(uint8_t c, uint8_t class_bits) { return CHARACTER_CLASS[c] & class_bits; }
#endif
