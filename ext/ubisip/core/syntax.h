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

#define WORD (CLASS_TOKEN | CLASS_HOST | CLASS_URI)
static const uint8_t CHARACTER_CLASS[256] = {
    ['a' ... 'z'] = WORD | CLASS_ALPHA, ['A' ... 'Z'] = WORD | CLASS_ALPHA, ['0' ... '9'] = WORD | CLASS_DIGIT,
    ['-'] = WORD, ['.'] = WORD, ['_'] = WORD,
    ['!'] = CLASS_TOKEN | CLASS_URI, ['%'] = CLASS_TOKEN | CLASS_URI, ['*'] = CLASS_TOKEN | CLASS_URI,
    ['+'] = CLASS_TOKEN | CLASS_URI, ['\''] = CLASS_TOKEN | CLASS_URI, ['~'] = CLASS_TOKEN | CLASS_URI,
    ['`'] = CLASS_TOKEN,
    ['#'] = CLASS_URI, ['$'] = CLASS_URI, ['&'] = CLASS_URI, ['('] = CLASS_URI, [')'] = CLASS_URI, [','] = CLASS_URI,
    ['/'] = CLASS_URI, [':'] = CLASS_URI, [';'] = CLASS_URI, ['='] = CLASS_URI, ['?'] = CLASS_URI, ['@'] = CLASS_URI,
    ['['] = CLASS_URI, [']'] = CLASS_URI,
    [' '] = CLASS_LWS, ['\t'] = CLASS_LWS, ['\r'] = CLASS_LWS, ['\n'] = CLASS_LWS,
};
#undef WORD

static inline int character_is(uint8_t c, uint8_t class_bits) { return CHARACTER_CLASS[c] & class_bits; }
#endif
