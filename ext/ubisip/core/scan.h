/* SPDX-License-Identifier: Apache-2.0
 * One pass over the header fields of a message (RFC 3261 section 7.3): line ends, colons, names.
 * The same body is compiled for AVX2, SSE2 and plain C; scan_choose() takes the best this processor runs.
 * The buffer must be readable for SCAN_PADDING octets beyond its end. */
#ifndef UBISIP_SCAN_H
#define UBISIP_SCAN_H
#include <stdint.h>
#include <string.h>

#define SCAN_PADDING 64
#define MAX_HEADERS 256 /* header lines: a message of a thousand must cost bounded work; real ones have 15 to 40 */
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

/* The names that nearly every message has, in their long form, with the colon right behind and one space behind that: found by
 * their first four octets, lower case, in a table, then compared with what stands there, sixteen octets at once. A line may be
 * shorter than that: then its CRLF makes it differ. */
typedef struct {
  uint8_t text[16], mask[16]; /* the name in upper case, and which bits count: not that of a letter's case */
  scan_kind kind;
  uint8_t other; /* where a name is that begins as this one does; 0: nowhere */
} __attribute__((aligned(64))) scan_name_entry;

#define SCAN_BITS(c) ((c) == 0 ? 0x00 : (c) >= 'A' && (c) <= 'Z' ? 0xDF : 0xFF)
#define SCAN_MASK(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)                                                      \
  {SCAN_BITS(a), SCAN_BITS(b), SCAN_BITS(c), SCAN_BITS(d), SCAN_BITS(e), SCAN_BITS(f), SCAN_BITS(g), SCAN_BITS(h),     \
   SCAN_BITS(i), SCAN_BITS(j), SCAN_BITS(k), SCAN_BITS(l), SCAN_BITS(m), SCAN_BITS(n), SCAN_BITS(o), SCAN_BITS(p)}
#define SCAN_NAME(id, other, length, ...) {{__VA_ARGS__}, SCAN_MASK(__VA_ARGS__), {length, id, 0}, other}
#define SCAN_PLACE(word) (((word) | 0x20202020u) * 0x67dba9u >> 27) /* one for each that stands in the table by itself */

static const scan_name_entry SCAN_NAMES[34] = {
    [0 ... 31] = {{1}, {0}, {0, HEADER_OTHER, 0}, 0}, /* nothing is that */
    [2] = SCAN_NAME(HEADER_CSEQ, 0, 4, 'C', 'S', 'E', 'Q', ':', ' ', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [3] = SCAN_NAME(HEADER_TO, 0, 2, 'T', 'O', ':', ' ', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [4] = SCAN_NAME(HEADER_CONTENT_LENGTH, 32, 14, 'C', 'O', 'N', 'T', 'E', 'N', 'T', '-', 'L', 'E', 'N', 'G', 'T', 'H', ':', ' '),
    [5] = SCAN_NAME(HEADER_ROUTE, 0, 5, 'R', 'O', 'U', 'T', 'E', ':', ' ', 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [6] = SCAN_NAME(HEADER_MAX_FORWARDS, 0, 12, 'M', 'A', 'X', '-', 'F', 'O', 'R', 'W', 'A', 'R', 'D', 'S', ':', ' ', 0, 0),
    [8] = SCAN_NAME(HEADER_OTHER, 0, 7, 'E', 'X', 'P', 'I', 'R', 'E', 'S', ':', ' ', 0, 0, 0, 0, 0, 0, 0),
    [9] = SCAN_NAME(HEADER_VIA, 0, 3, 'V', 'I', 'A', ':', ' ', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [11] = SCAN_NAME(HEADER_OTHER, 0, 7, 'R', 'E', 'Q', 'U', 'I', 'R', 'E', ':', ' ', 0, 0, 0, 0, 0, 0, 0),
    [12] = SCAN_NAME(HEADER_RECORD_ROUTE, 0, 12, 'R', 'E', 'C', 'O', 'R', 'D', '-', 'R', 'O', 'U', 'T', 'E', ':', ' ', 0, 0),
    [15] = SCAN_NAME(HEADER_CALL_ID, 0, 7, 'C', 'A', 'L', 'L', '-', 'I', 'D', ':', ' ', 0, 0, 0, 0, 0, 0, 0),
    [19] = SCAN_NAME(HEADER_FROM, 0, 4, 'F', 'R', 'O', 'M', ':', ' ', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [21] = SCAN_NAME(HEADER_OTHER, 0, 9, 'S', 'U', 'P', 'P', 'O', 'R', 'T', 'E', 'D', ':', ' ', 0, 0, 0, 0, 0),
    [22] = SCAN_NAME(HEADER_OTHER, 0, 7, 'S', 'U', 'B', 'J', 'E', 'C', 'T', ':', ' ', 0, 0, 0, 0, 0, 0, 0),
    [23] = SCAN_NAME(HEADER_OTHER, 0, 4, 'D', 'A', 'T', 'E', ':', ' ', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [24] = SCAN_NAME(HEADER_OTHER, 0, 10, 'U', 'S', 'E', 'R', '-', 'A', 'G', 'E', 'N', 'T', ':', ' ', 0, 0, 0, 0),
    [25] = SCAN_NAME(HEADER_OTHER, 0, 13, 'A', 'U', 'T', 'H', 'O', 'R', 'I', 'Z', 'A', 'T', 'I', 'O', 'N', ':', ' ', 0),
    [27] = SCAN_NAME(HEADER_OTHER, 0, 6, 'S', 'E', 'R', 'V', 'E', 'R', ':', ' ', 0, 0, 0, 0, 0, 0, 0, 0),
    [29] = SCAN_NAME(HEADER_OTHER, 0, 5, 'A', 'L', 'L', 'O', 'W', ':', ' ', 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [32] = SCAN_NAME(HEADER_OTHER, 33, 7, 'C', 'O', 'N', 'T', 'A', 'C', 'T', ':', ' ', 0, 0, 0, 0, 0, 0, 0),
    [33] = SCAN_NAME(HEADER_OTHER, 0, 12, 'C', 'O', 'N', 'T', 'E', 'N', 'T', '-', 'T', 'Y', 'P', 'E', ':', ' ', 0, 0),
};

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define SCAN_CRLF 0x0A0D
#else
#define SCAN_CRLF 0x0D0A
#endif
#define SCAN_RARE __attribute__((noinline, cold)) /* kept out of the loop, whose variables then fit into registers */

static inline int scan_is_space(uint8_t c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Close a field anew: its value ends before the white space that precedes `end`, which is behind a CRLF. */
SCAN_RARE static void scan_close(const uint8_t *data, scan_header *field, uint32_t end) {
  uint32_t value = field->value, last = end;
  while (value < last && scan_is_space(data[value])) value++;
  while (last > value && scan_is_space(data[last - 1])) last--;
  field->value = value;
  field->value_length = last - value;
}

typedef struct {
  uint32_t value; /* 0: the line has no colon, or no name before it */
  scan_kind kind;
} scan_start;

/* A line that scan_known() does not know, up to its line feed; white space may stand before the colon. */
static inline scan_start scan_begin(const uint8_t *data, uint32_t line, uint32_t feed, uint64_t colons, uint64_t blanks) {
  const uint8_t *name = data + line, *colon = colons ? name + __builtin_ctzll(colons) : memchr(name, ':', feed - line);
  const uint8_t *end = colon;
  scan_start start = {0, {0, HEADER_OTHER, 0}};
  if (!colon || colon >= data + feed) return start;
  while (end > name && (end[-1] == ' ' || end[-1] == '\t')) end--;
  if (end == name || end - name > 0xffff || (blanks & (end - name < 64 ? (1ull << (end - name)) - 1 : ~0ull))) return start;
  start.value = (uint32_t)(colon - data) + 1;
  start.kind.name_length = (uint16_t)(end - name);
  start.kind.id = scan_name(name, start.kind.name_length);
  return start;
}

/* Index the fields from `at`, which is behind a line feed, on. Gives their number and sets *body to the first octet after the
 * empty line, or gives an error and sets *body to where it stands; *count is how many fields are sound in any case.
 * lines[id] is the first line of each of the 16 header ids, -1 when it has none, lines[16 + id] its last one when it has any;
 * *repeated has a bit for each that has more than one. Right behind these 32 numbers the fields are put, MAX_HEADERS at most,
 * and one more, of which only the line is set: where the last of them ends. MARKS gives a bit for each of 64 octets that is
 * one from BS to SI, CR and LF among them; MASK for each that is the wanted one. */
#define SCAN_BODY(NAME, TARGET, MARKS, MASK, SAME)                                                                     \
  SCAN_RARE TARGET static scan_start NAME##_begin(const uint8_t *data, uint32_t line, uint32_t end) {                  \
    return scan_begin(data, line, end, MASK(data + line, ':'), MASK(data + line, ' '));                                \
  }                                                                                                                    \
  TARGET static int NAME(const uint8_t *data, uint32_t size, uint32_t at, uint32_t *body, int *count, int16_t *lines,  \
                         uint32_t *repeated) {                                                                         \
    scan_header *out = (scan_header *)(lines + 32), *field = out;                                                      \
    uint32_t line = at, block = at - 64, again = 0, folds = 0;                                                         \
    uint64_t marks = 0;                                                                                                \
    int n = 0, result;                                                                                                 \
    memset(lines, 0xff, 16 * sizeof *lines);                                                                           \
    for (;;) {                                                                                                         \
      while (!marks) {                                                                                                 \
        block += 64;                                                                                                   \
        int32_t left = (int32_t)(size - block);                                                                        \
        if (left <= 1) { result = SCAN_NO_END; goto end; }                                                             \
        marks = MARKS(data + block);                                                                                   \
        if (left <= 64) marks &= (1ull << (left - 1)) - 1; /* a CR that is the last octet ends no line */              \
        if (line > block) marks &= ~1ull; /* the LF whose CR was the last octet of the block before */                 \
      }                                                                                                                \
      uint32_t end = block + (uint32_t)__builtin_ctzll(marks);                                                         \
      uint16_t two;                                                                                                    \
      memcpy(&two, data + end, 2);                                                                                     \
      marks &= marks - 1;                                                                                              \
      if (two != SCAN_CRLF) {                                                                                          \
        if (data[end] != '\r' && data[end] != '\n') continue;                                                          \
        result = SCAN_BAD_LINE;                                                                                        \
        break;                                                                                                         \
      }                                                                                                                \
      marks &= marks - 1;                                                                                              \
      const uint8_t *name = data + line;                                                                               \
      uint32_t word, value;                                                                                            \
      memcpy(&word, name, 4);                                                                                          \
      const scan_name_entry *known = &SCAN_NAMES[SCAN_PLACE(word)];                                                    \
      while (!SAME(known, name) && (known = known->other ? &SCAN_NAMES[known->other] : NULL)) {}                       \
      scan_kind kind;                                                                                                  \
      if (known) {                                                                                                     \
        kind = known->kind;                                                                                            \
        value = line + kind.name_length + 2;                                                                           \
      } else if (name[0] <= ' ') { /* an empty line, a folded one, or nothing that a field may start with */           \
        if (end == line) { result = n; break; }                                                                        \
        if ((name[0] != ' ' && name[0] != '\t') || n == 0) { result = SCAN_BAD_LINE; break; }                          \
        folds = field[-1].folded = 1;                                                                                  \
        line = end + 2;                                                                                                \
        continue;                                                                                                      \
      } else {                                                                                                         \
        scan_start start = NAME##_begin(data, line, end);                                                              \
        if (start.value == 0) { result = SCAN_BAD_LINE; break; }                                                       \
        kind = start.kind;                                                                                             \
        value = start.value + (data[start.value] == ' ');                                                              \
      }                                                                                                                \
      if (n == MAX_HEADERS) { result = SCAN_TOO_MANY; break; }                                                           \
      int16_t *place = &lines[kind.id];                                                                                \
      place[16] = (int16_t)n;                                                                                          \
      if (__builtin_expect(place[0] < 0, 1))                                                                           \
        place[0] = (int16_t)n;                                                                                         \
      else                                                                                                             \
        again |= 1u << kind.id;                                                                                        \
      field->line = line;                                                                                              \
      memcpy(&field->name_length, &kind, sizeof kind);                                                                 \
      field->value = value;                                                                                            \
      field->value_length = end - value;                                                                               \
      line = end + 2;                                                                                                  \
      /* As nearly always: no more white space before the value, and none behind it. */                                \
      if (data[value] <= ' ' || data[end - 1] <= ' ') scan_close(data, field, line);                                   \
      field++;                                                                                                         \
      n++;                                                                                                             \
    }                                                                                                                  \
  end:                                                                                                                 \
    field->line = line;                                                                                                \
    if (folds) /* now that all their lines are known: to close them at each line would be quadratic */                 \
      for (int i = 0; i < n; i++)                                                                                      \
        if (out[i].folded) scan_close(data, &out[i], out[i + 1].line);                                                 \
    lines[HEADER_OTHER] = -1;                                                                                          \
    *repeated = again;                                                                                                 \
    *count = n;                                                                                                        \
    *body = result < 0 ? line : line + 2;                                                                              \
    return result;                                                                                                     \
  }

typedef int (*scan_function)(const uint8_t *, uint32_t, uint32_t, uint32_t *, int *, int16_t *, uint32_t *);

static inline uint64_t scan_mask_scalar(const uint8_t *p, uint8_t wanted) {
  uint64_t mask = 0;
  for (int i = 0; i < 64; i++) mask |= (uint64_t)(p[i] == wanted) << i;
  return mask;
}
static inline uint64_t scan_marks_scalar(const uint8_t *p) {
  uint64_t mask = 0;
  for (int i = 0; i < 64; i++) mask |= (uint64_t)((p[i] | 7) == 15) << i;
  return mask;
}
static inline int scan_same_scalar(const scan_name_entry *entry, const uint8_t *name) {
  int same = 1;
  for (int i = 0; i < 16; i++) same &= (name[i] & entry->mask[i]) == entry->text[i];
  return same;
}
SCAN_BODY(scan_scalar, , scan_marks_scalar, scan_mask_scalar, scan_same_scalar)

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
static inline uint64_t scan_marks_sse2(const uint8_t *p) {
  uint64_t mask = 0;
  for (int i = 0; i < 4; i++) {
    __m128i octets = _mm_or_si128(_mm_loadu_si128((const __m128i *)(p + 16 * i)), _mm_set1_epi8(7));
    mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(octets, _mm_set1_epi8(15))) << 16 * i;
  }
  return mask;
}
static inline int scan_same_sse2(const scan_name_entry *entry, const uint8_t *name) {
  __m128i counted = _mm_and_si128(_mm_loadu_si128((const __m128i *)name), *(const __m128i *)entry->mask);
  return _mm_movemask_epi8(_mm_cmpeq_epi8(counted, *(const __m128i *)entry->text)) == 0xFFFF;
}
SCAN_BODY(scan_sse2, , scan_marks_sse2, scan_mask_sse2, scan_same_sse2)

#define SCAN_AVX2 __attribute__((target("avx2,bmi,popcnt")))
SCAN_AVX2 static inline uint64_t scan_bits_avx2(__m256i low, __m256i high, uint8_t wanted) {
  __m256i w = _mm256_set1_epi8((char)wanted);
  uint32_t l = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(low, w));
  return l | (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(high, w)) << 32;
}
SCAN_AVX2 static inline uint64_t scan_mask_avx2(const uint8_t *p, uint8_t wanted) {
  return scan_bits_avx2(_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32)), wanted);
}
SCAN_AVX2 static inline uint64_t scan_marks_avx2(const uint8_t *p) {
  __m256i seven = _mm256_set1_epi8(7);
  return scan_bits_avx2(_mm256_or_si256(_mm256_loadu_si256((const __m256i *)p), seven),
                        _mm256_or_si256(_mm256_loadu_si256((const __m256i *)(p + 32)), seven), 15);
}
SCAN_AVX2 static inline int scan_same_avx2(const scan_name_entry *entry, const uint8_t *name) {
  __m128i counted = _mm_and_si128(_mm_loadu_si128((const __m128i *)name), *(const __m128i *)entry->mask);
  __m128i other = _mm_xor_si128(counted, *(const __m128i *)entry->text);
  return _mm_testz_si128(other, other);
}
SCAN_BODY(scan_avx2, SCAN_AVX2, scan_marks_avx2, scan_mask_avx2, scan_same_avx2)
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
