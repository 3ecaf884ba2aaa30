/* SPDX-License-Identifier: Apache-2.0
 * One pass over the header fields of a message (RFC 3261 section 7.3): line ends, colons, names.
 * The same body is compiled for AVX2, SSE2 and plain C; scan_choose() takes the best this processor runs.
 * The buffer must be readable for SCAN_PADDING octets beyond its end. */
#ifndef UBISIP_SCAN_H
#define UBISIP_SCAN_H
#include <stdint.h>
#include <string.h>

#define SCAN_PADDING 64
#define SCAN_BAD_LINE (-1)  /* no colon, an empty name, a bare LF, or a fold before the first field */
#define SCAN_TOO_MANY (-2)  /* more header lines than the index holds */
#define SCAN_NO_END (-3)    /* no empty line ends the header */

enum header_id {
  HEADER_OTHER, HEADER_VIA, HEADER_FROM, HEADER_TO, HEADER_CALL_ID, HEADER_CSEQ, HEADER_MAX_FORWARDS,
  HEADER_CONTENT_LENGTH, HEADER_ROUTE, HEADER_RECORD_ROUTE, HEADER_PROXY_REQUIRE, HEADER_RETRY_AFTER,
  HEADER_TIMESTAMP, HEADER_RESOURCE_PRIORITY, HEADER_CHALLENGE, HEADER_IDS
};

typedef struct {
  uint32_t line;          /* where the line starts: the name's first octet */
  uint32_t value;         /* first octet of the value, white space skipped */
  uint32_t value_length;  /* without trailing white space */
  uint32_t end;           /* first octet of the next line */
  uint16_t name_length; /* these three as in scan_kind */
  uint8_t id;
  uint8_t folded;
} scan_header;

typedef struct {
  uint16_t name_length;
  uint8_t id, folded;
} scan_kind;

static inline int scan_same(const uint8_t *name, const char *lower, int length) {
  for (int i = 0; i < length; i++)
    if ((name[i] | 0x20) != (uint8_t)lower[i]) return 0;
  return 1;
}

static inline uint8_t scan_name(const uint8_t *n, uint32_t length) {
  switch (length) {
    case 1:
      switch (n[0] | 0x20) {
        case 'v': return HEADER_VIA;
        case 'f': return HEADER_FROM;
        case 't': return HEADER_TO;
        case 'i': return HEADER_CALL_ID;
        case 'l': return HEADER_CONTENT_LENGTH;
      }
      return HEADER_OTHER;
    case 2: return scan_same(n, "to", 2) ? HEADER_TO : HEADER_OTHER;
    case 3: return scan_same(n, "via", 3) ? HEADER_VIA : HEADER_OTHER;
    case 4:
      if (scan_same(n, "from", 4)) return HEADER_FROM;
      return scan_same(n, "cseq", 4) ? HEADER_CSEQ : HEADER_OTHER;
    case 5: return scan_same(n, "route", 5) ? HEADER_ROUTE : HEADER_OTHER;
    case 7: return scan_same(n, "call-id", 7) ? HEADER_CALL_ID : HEADER_OTHER;
    case 9: return scan_same(n, "timestamp", 9) ? HEADER_TIMESTAMP : HEADER_OTHER;
    case 11: return scan_same(n, "retry-after", 11) ? HEADER_RETRY_AFTER : HEADER_OTHER;
    case 12:
      if (scan_same(n, "max-forwards", 12)) return HEADER_MAX_FORWARDS;
      return scan_same(n, "record-route", 12) ? HEADER_RECORD_ROUTE : HEADER_OTHER;
    case 13: return scan_same(n, "proxy-require", 13) ? HEADER_PROXY_REQUIRE : HEADER_OTHER;
    case 14: return scan_same(n, "content-length", 14) ? HEADER_CONTENT_LENGTH : HEADER_OTHER;
    case 16: return scan_same(n, "www-authenticate", 16) ? HEADER_CHALLENGE : HEADER_OTHER;
    case 18: return scan_same(n, "proxy-authenticate", 18) ? HEADER_CHALLENGE : HEADER_OTHER;
    case 17: return scan_same(n, "resource-priority", 17) ? HEADER_RESOURCE_PRIORITY : HEADER_OTHER;
  }
  return HEADER_OTHER;
}

#define SCAN_WORD(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

/* The names that nearly every message has, in their long form and with the colon right behind: found by their first four
 * octets, lower case, in a table without collisions, then compared with what follows. */
typedef struct {
  uint32_t word;
  scan_kind kind;
  uint64_t tail, mask; /* the octets from the fifth on, and which of them belong to the name */
} scan_name_entry;

#define SCAN_TAIL(a, b, c, d, e, f, g, h) ((uint64_t)SCAN_WORD(a, b, c, d) | (uint64_t)SCAN_WORD(e, f, g, h) << 32)
#define SCAN_PLACE(word) ((word) * 0x1027c4d1u >> 28)

static const scan_name_entry SCAN_NAMES[16] = {
    [0] = {SCAN_WORD('c', 's', 'e', 'q'), {4, HEADER_CSEQ, 0}, 0, 0},
    [1] = {SCAN_WORD('r', 'o', 'u', 't'), {5, HEADER_ROUTE, 0}, 'e', 0xFF},
    [4] = {SCAN_WORD('t', 'o', ':', ' '), {2, HEADER_TO, 0}, 0, 0},
    [7] = {SCAN_WORD('f', 'r', 'o', 'm'), {4, HEADER_FROM, 0}, 0, 0},
    [8] = {SCAN_WORD('c', 'a', 'l', 'l'), {7, HEADER_CALL_ID, 0}, SCAN_TAIL('-', 'i', 'd', 0, 0, 0, 0, 0), 0xFFFFFF},
    [9] = {SCAN_WORD('r', 'e', 'c', 'o'), {12, HEADER_RECORD_ROUTE, 0},
           SCAN_TAIL('r', 'd', '-', 'r', 'o', 'u', 't', 'e'), ~0ull},
    [10] = {SCAN_WORD('v', 'i', 'a', ':'), {3, HEADER_VIA, 0}, 0, 0},
    [12] = {SCAN_WORD('c', 'o', 'n', 't'), {14, HEADER_CONTENT_LENGTH, 0},
            SCAN_TAIL('e', 'n', 't', '-', 'l', 'e', 'n', 'g'), ~0ull},
    [15] = {SCAN_WORD('m', 'a', 'x', '-'), {12, HEADER_MAX_FORWARDS, 0},
            SCAN_TAIL('f', 'o', 'r', 'w', 'a', 'r', 'd', 's'), ~0ull},
};

/* NULL: look closer. A line may be shorter than what is read here: then its CRLF makes it differ. */
static inline const scan_name_entry *scan_known(const uint8_t *n) {
  uint32_t word;
  uint64_t tail;
  memcpy(&word, n, 4);
  memcpy(&tail, n + 4, 8);
  word |= 0x20202020;
  const scan_name_entry *entry = &SCAN_NAMES[SCAN_PLACE(word)];
  if (entry->word != word || (((tail | 0x2020202020202020ull) ^ entry->tail) & entry->mask)) return NULL;
  if (n[entry->kind.name_length] != ':') return NULL;
  if (entry->kind.id == HEADER_CONTENT_LENGTH && ((n[12] | 0x20) != 't' || (n[13] | 0x20) != 'h')) return NULL;
  return entry;
}

static inline int scan_is_space(uint8_t c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Close a field anew: its value ends before the white space that precedes `end`, which is behind a CRLF. */
static inline void scan_close(const uint8_t *data, scan_header *field, uint32_t end) {
  uint32_t value = field->value, last = end;
  while (value < last && scan_is_space(data[value])) value++;
  while (last > value && scan_is_space(data[last - 1])) last--;
  field->value = value;
  field->value_length = last - value;
  field->end = end;
}

/* Index the fields from `at`, which is behind a line feed, on. Gives their number and sets *body to the first octet after the
 * empty line, or gives an error and sets *body to where it stands; *count is how many fields are sound in any case.
 * lines[id] is the first line of each of the 16 header ids, -1 when it has none, lines[16 + id] its last one when it has any;
 * *repeated has a bit for each that has more than one. */
#define SCAN_BODY(NAME, TARGET, MASK)                                                                                  \
  TARGET static int NAME(const uint8_t *data, uint32_t size, uint32_t at, scan_header *out, int most, uint32_t *body,  \
                         int *count, int16_t *lines, uint32_t *repeated) {                                             \
    scan_header *field = out;                                                                                          \
    uint32_t line = at, block = at - 64, again = 0, folds = 0;                                                         \
    uint64_t feeds = 0, odd = 0, carriage = 0;                                                                         \
    int n = 0, result;                                                                                                 \
    memset(lines, 0xff, 16 * sizeof *lines);                                                                           \
    for (;;) {                                                                                                         \
      while (!feeds) {                                                                                                 \
        if (odd) { result = SCAN_BAD_LINE; goto end; }                                                                 \
        block += 64;                                                                                                   \
        if (block >= size) { result = SCAN_NO_END; goto end; }                                                         \
        /* A bit for each octet that is an LF without a CR before it, or none behind a CR. */                          \
        odd = carriage >> 63;                                                                                          \
        carriage = MASK(data + block, '\r');                                                                           \
        feeds = MASK(data + block, '\n');                                                                              \
        odd = (odd | carriage << 1) ^ feeds;                                                                           \
        if (size - block < 64) {                                                                                       \
          feeds &= (1ull << (size - block)) - 1;                                                                       \
          odd &= (1ull << (size - block)) - 1;                                                                         \
        }                                                                                                              \
      }                                                                                                                \
      uint32_t feed = block + (uint32_t)__builtin_ctzll(feeds);                                                        \
      uint64_t behind = feeds & (feeds - 1);                                                                           \
      const uint8_t *name = data + line;                                                                               \
      if (name[0] <= ' ') { /* an empty line, a folded one, or nothing that a field may start with */                  \
        if (name[0] == '\r' && feed == line + 1) {                                                                     \
          result = odd & (feeds ^ (feeds - 1)) ? SCAN_BAD_LINE : n; /* what comes behind it is the body's */           \
          line = feed + 1;                                                                                             \
          break;                                                                                                       \
        }                                                                                                              \
        if ((name[0] != ' ' && name[0] != '\t') || n == 0) { result = SCAN_BAD_LINE; break; }                          \
        folds = field[-1].folded = 1;                                                                                  \
        field[-1].end = line = feed + 1;                                                                               \
        feeds = behind;                                                                                                \
        continue;                                                                                                      \
      }                                                                                                                \
      if (n == most) { result = SCAN_TOO_MANY; break; }                                                                \
      const scan_name_entry *known = scan_known(name);                                                                 \
      scan_kind kind;                                                                                                  \
      uint32_t value;                                                                                                  \
      if (known) {                                                                                                     \
        kind = known->kind;                                                                                            \
        value = line + kind.name_length + 1;                                                                           \
      } else {                                                                                                         \
        uint64_t colons = MASK(name, ':');                                                                             \
        uint32_t colon;                                                                                                \
        if (colons) {                                                                                                  \
          colon = line + (uint32_t)__builtin_ctzll(colons);                                                            \
        } else {                                                                                                       \
          const uint8_t *found = memchr(name, ':', feed - line);                                                       \
          colon = found ? (uint32_t)(found - data) : feed;                                                             \
        }                                                                                                              \
        uint32_t end = colon;                                                                                          \
        while (end > line && (data[end - 1] == ' ' || data[end - 1] == '\t')) end--;                                   \
        uint64_t within = end - line < 64 ? (1ull << (end - line)) - 1 : ~0ull;                                        \
        if (colon >= feed || end == line || end - line > 0xffff || (MASK(name, ' ') & within)) {                       \
          result = SCAN_BAD_LINE;                                                                                      \
          break;                                                                                                       \
        }                                                                                                              \
        kind = (scan_kind){(uint16_t)(end - line), scan_name(name, end - line), 0};                                    \
        value = colon + 1;                                                                                             \
      }                                                                                                                \
      int16_t *place = &lines[kind.id];                                                                                \
      place[16] = (int16_t)n;                                                                                          \
      if (place[0] < 0)                                                                                                \
        place[0] = (int16_t)n;                                                                                         \
      else                                                                                                             \
        again |= 1u << kind.id;                                                                                        \
      field->line = line;                                                                                              \
      memcpy(&field->name_length, &kind, sizeof kind);                                                                 \
      line = feed + 1;                                                                                                 \
      feeds = behind;                                                                                                  \
      /* As nearly always: one space before the value, and none behind it. */                                          \
      if (data[value] == ' ' && data[value + 1] > ' ' && data[feed - 2] > ' ') {                                       \
        field->value = value + 1;                                                                                      \
        field->value_length = feed - 2 - value;                                                                        \
        field->end = line;                                                                                             \
      } else {                                                                                                         \
        field->value = value;                                                                                          \
        scan_close(data, field, line);                                                                                 \
      }                                                                                                                \
      field++;                                                                                                         \
      n++;                                                                                                             \
    }                                                                                                                  \
  end:                                                                                                                 \
    if (folds) /* now that all their lines are known: to close them at each line would be quadratic */                 \
      for (int i = 0; i < n; i++)                                                                                      \
        if (out[i].folded) scan_close(data, &out[i], out[i].end);                                                      \
    lines[HEADER_OTHER] = -1;                                                                                          \
    *repeated = again;                                                                                                 \
    *count = n;                                                                                                        \
    *body = line;                                                                                                      \
    return result;                                                                                                     \
  }

typedef int (*scan_function)(const uint8_t *, uint32_t, uint32_t, scan_header *, int, uint32_t *, int *, int16_t *,
                             uint32_t *);

/* The masks: a bit for each of 64 octets that is the wanted one. */
static inline uint64_t scan_mask_scalar(const uint8_t *p, uint8_t wanted) {
  uint64_t mask = 0;
  for (int i = 0; i < 64; i++) mask |= (uint64_t)(p[i] == wanted) << i;
  return mask;
}
SCAN_BODY(scan_scalar, , scan_mask_scalar)

#if defined(__x86_64__)
#include <immintrin.h>
static inline uint64_t scan_mask_sse2(const uint8_t *p, uint8_t wanted) {
  __m128i w = _mm_set1_epi8((char)wanted);
  uint64_t mask = 0;
  for (int i = 0; i < 4; i++) {
    __m128i same = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), w);
    mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(same) << 16 * i;
  }
  return mask;
}
SCAN_BODY(scan_sse2, , scan_mask_sse2)

#define SCAN_AVX2 __attribute__((target("avx2,bmi,popcnt")))
SCAN_AVX2 static inline uint64_t scan_mask_avx2(const uint8_t *p, uint8_t wanted) {
  __m256i w = _mm256_set1_epi8((char)wanted);
  uint32_t low = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)p), w));
  uint32_t high = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(p + 32)), w));
  return low | (uint64_t)high << 32;
}
SCAN_BODY(scan_avx2, SCAN_AVX2, scan_mask_avx2)
#endif

/* name: "avx2", "sse2", "scalar", or NULL for the best there is; NULL comes back when this processor lacks it. */
static inline scan_function scan_choose(const char *name) {
#if defined(__x86_64__)
  if ((!name || !strcmp(name, "avx2")) && __builtin_cpu_supports("avx2")) return scan_avx2;
  if (!name || !strcmp(name, "sse2")) return scan_sse2;
#endif
  return !name || !strcmp(name, "scalar") ? scan_scalar : NULL;
}
#endif
