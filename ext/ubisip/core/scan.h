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

/* The names that nearly every message has, in their long form and with the colon right behind: found by their first four
 * octets, lower case, in a table without collisions, then compared with what stands there, sixteen octets at once. A line may
 * be shorter than that: then its CRLF makes it differ. */
typedef struct {
  uint64_t text[2], mask[2]; /* the name in upper case with its colon, and which bits count: not that of a letter's case */
  scan_kind kind;
} scan_name_entry;

#define SCAN_8(a, b, c, d, e, f, g, h)                                                                                 \
  ((uint64_t)(a) | (uint64_t)(b) << 8 | (uint64_t)(c) << 16 | (uint64_t)(d) << 24 | (uint64_t)(e) << 32 |              \
   (uint64_t)(f) << 40 | (uint64_t)(g) << 48 | (uint64_t)(h) << 56)
#define SCAN_BITS(c) ((c) == 0 ? 0x00 : (c) >= 'A' && (c) <= 'Z' ? 0xDF : 0xFF)
#define SCAN_MASK_8(a, b, c, d, e, f, g, h)                                                                            \
  SCAN_8(SCAN_BITS(a), SCAN_BITS(b), SCAN_BITS(c), SCAN_BITS(d), SCAN_BITS(e), SCAN_BITS(f), SCAN_BITS(g), SCAN_BITS(h))
#define SCAN_ENTRY(id, length, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)                                            \
  {{SCAN_8(a, b, c, d, e, f, g, h), SCAN_8(i, j, k, l, m, n, o, 0)},                                                   \
   {SCAN_MASK_8(a, b, c, d, e, f, g, h), SCAN_MASK_8(i, j, k, l, m, n, o, 0)},                                         \
   {length, id, 0}}
#define SCAN_NONE {{1, 0}, {0, 0}, {0, HEADER_OTHER, 0}} /* nothing is that */
#define SCAN_PLACE(word) (((word) | 0x20202020u) * 0x1027c4d1u >> 28)

static const scan_name_entry SCAN_NAMES[16] = {
    [0] = SCAN_ENTRY(HEADER_CSEQ, 4, 'C', 'S', 'E', 'Q', ':', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [1] = SCAN_ENTRY(HEADER_ROUTE, 5, 'R', 'O', 'U', 'T', 'E', ':', 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [2] = SCAN_NONE,
    [3] = SCAN_NONE,
    [4] = SCAN_ENTRY(HEADER_TO, 2, 'T', 'O', ':', ' ', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [5] = SCAN_NONE,
    [6] = SCAN_NONE,
    [7] = SCAN_ENTRY(HEADER_FROM, 4, 'F', 'R', 'O', 'M', ':', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [8] = SCAN_ENTRY(HEADER_CALL_ID, 7, 'C', 'A', 'L', 'L', '-', 'I', 'D', ':', 0, 0, 0, 0, 0, 0, 0),
    [9] = SCAN_ENTRY(HEADER_RECORD_ROUTE, 12, 'R', 'E', 'C', 'O', 'R', 'D', '-', 'R', 'O', 'U', 'T', 'E', ':', 0, 0),
    [10] = SCAN_ENTRY(HEADER_VIA, 3, 'V', 'I', 'A', ':', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    [11] = SCAN_NONE,
    [12] = SCAN_ENTRY(HEADER_CONTENT_LENGTH, 14, 'C', 'O', 'N', 'T', 'E', 'N', 'T', '-', 'L', 'E', 'N', 'G', 'T', 'H', ':'),
    [13] = SCAN_NONE,
    [14] = SCAN_NONE,
    [15] = SCAN_ENTRY(HEADER_MAX_FORWARDS, 12, 'M', 'A', 'X', '-', 'F', 'O', 'R', 'W', 'A', 'R', 'D', 'S', ':', 0, 0),
};
/* Two more, which begin as Content-Length does. */
static const scan_name_entry SCAN_CONTACT =
    SCAN_ENTRY(HEADER_OTHER, 7, 'C', 'O', 'N', 'T', 'A', 'C', 'T', ':', 0, 0, 0, 0, 0, 0, 0);
static const scan_name_entry SCAN_CONTENT_TYPE =
    SCAN_ENTRY(HEADER_OTHER, 12, 'C', 'O', 'N', 'T', 'E', 'N', 'T', '-', 'T', 'Y', 'P', 'E', ':', 0, 0);

static inline int scan_is(const scan_name_entry *entry, const uint64_t *octets) {
  return (((octets[0] & entry->mask[0]) ^ entry->text[0]) | ((octets[1] & entry->mask[1]) ^ entry->text[1])) == 0;
}

/* NULL: look closer. */
static inline const scan_name_entry *scan_known(const uint8_t *n) {
  uint64_t octets[2];
  memcpy(octets, n, 16);
  uint32_t place = SCAN_PLACE((uint32_t)octets[0]);
  const scan_name_entry *entry = &SCAN_NAMES[place];
  if (scan_is(entry, octets)) return entry;
  if (place == 12) {
    if (scan_is(&SCAN_CONTACT, octets)) return &SCAN_CONTACT;
    if (scan_is(&SCAN_CONTENT_TYPE, octets)) return &SCAN_CONTENT_TYPE;
  }
  return NULL;
}

#define SCAN_RARE __attribute__((noinline, cold)) /* kept out of the loop, whose variables then fit into registers */

static inline int scan_is_space(uint8_t c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Close a field anew: its value ends before the white space that precedes `end`, which is behind a CRLF. */
SCAN_RARE static void scan_close(const uint8_t *data, scan_header *field, uint32_t end) {
  uint32_t value = field->value, last = end;
  while (value < last && scan_is_space(data[value])) value++;
  while (last > value && scan_is_space(data[last - 1])) last--;
  field->value = value;
  field->value_length = last - value;
  field->end = end;
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
 * *repeated has a bit for each that has more than one. */
#define SCAN_BODY(NAME, TARGET, MASK)                                                                                  \
  SCAN_RARE TARGET static scan_start NAME##_begin(const uint8_t *data, uint32_t line, uint32_t feed) {                 \
    return scan_begin(data, line, feed, MASK(data + line, ':'), MASK(data + line, ' '));                               \
  }                                                                                                                    \
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
      const scan_name_entry *known = scan_known(name);                                                                 \
      scan_kind kind;                                                                                                  \
      uint32_t value;                                                                                                  \
      if (known) {                                                                                                     \
        kind = known->kind;                                                                                            \
        value = line + kind.name_length + 1;                                                                           \
      } else if (name[0] <= ' ') { /* an empty line, a folded one, or nothing that a field may start with */           \
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
      } else {                                                                                                         \
        scan_start start = NAME##_begin(data, line, feed);                                                             \
        if (start.value == 0) { result = SCAN_BAD_LINE; break; }                                                       \
        kind = start.kind;                                                                                             \
        value = start.value;                                                                                           \
      }                                                                                                                \
      if (n == most) { result = SCAN_TOO_MANY; break; }                                                                \
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
