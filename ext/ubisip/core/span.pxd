# SPDX-License-Identifier: Apache-2.0
"""A stretch of a datagram, and the one bounded cursor that walks it: nobody else does pointer arithmetic on input."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from ubisip.core.syntax cimport CLASS_LWS, CLASS_TOKEN, character_is, find_either, find_octet


cdef struct Span:
    uint32_t at      # offset in the datagram
    uint32_t length


cdef struct Cursor:
    const uint8_t* data
    uint32_t at
    uint32_t end     # never read at or beyond


cdef inline Cursor cursor(const uint8_t* data, Span span) noexcept nogil:
    cdef Cursor c
    c.data = data
    c.at = span.at
    c.end = span.at + span.length
    return c


cdef inline Span span_of(uint32_t at, uint32_t end) noexcept nogil:
    cdef Span span
    span.at = at
    span.length = end - at
    return span


cdef inline int peek(Cursor* c) noexcept nogil:
    """The octet under the cursor; -1 at the end."""
    return c.data[c.at] if c.at < c.end else -1


cdef inline bint take(Cursor* c, uint8_t wanted) noexcept nogil:
    if c.at < c.end and c.data[c.at] == wanted:
        c.at += 1
        return True
    return False


# The loops below work on locals: octets may alias anything, so a cursor's own fields would be stored at every step.

cdef inline uint32_t run(const uint8_t* data, uint32_t at, uint32_t end, uint8_t class_bits) noexcept nogil:
    """Where the run of characters of a class that starts at *at* ends."""
    while at < end and character_is(data[at], class_bits):
        at += 1
    return at


cdef inline void skip_lws(Cursor* c) noexcept nogil:
    if c.at < c.end and character_is(c.data[c.at], CLASS_LWS):
        c.at = run(c.data, c.at, c.end, CLASS_LWS)


cdef inline Span take_class(Cursor* c, uint8_t class_bits) noexcept nogil:
    """The longest run of characters of a class; may be empty."""
    cdef uint32_t start = c.at
    c.at = run(c.data, start, c.end, class_bits)
    return span_of(start, c.at)


cdef inline bint take_quoted(Cursor* c) noexcept nogil:
    """A quoted-string, the cursor on its opening quote; False when it is not closed."""
    cdef uint32_t at = c.at + 1
    while True:
        at = find_either(c.data, at, c.end, 0x22, 0x5C)
        if at >= c.end:
            c.at = c.end
            return False
        if c.data[at] == 0x22:
            c.at = at + 1
            return True
        at += 2  # backslash: quoted-pair


cdef inline bint take_number(Cursor* c, uint64_t most, uint64_t* value) noexcept nogil:
    """1*DIGIT not above most; False when there is no digit or it is more."""
    cdef uint32_t at = c.at
    cdef uint64_t number = 0
    cdef uint8_t digit
    while at < c.end:
        digit = <uint8_t>(c.data[at] - 0x30)
        if digit > 9:
            break
        number = number * 10 + digit
        if number > most:
            return False
        at += 1
    value[0] = number
    if at == c.at:
        return False
    c.at = at
    return True


cdef inline bint same(const uint8_t* data, Span span, const char* text, uint32_t length) noexcept nogil:
    """Octet by octet the same."""
    return span.length == length and memcmp(data + span.at, text, length) == 0


cdef inline bint same_name(const uint8_t* data, Span span, const char* lower, uint32_t length) noexcept nogil:
    """The same but for the case of letters; *lower* is given in lower case."""
    cdef uint32_t i
    if span.length != length:
        return False
    for i in range(length):
        if fold(data[span.at + i]) != <uint8_t>lower[i]:
            return False
    return True


cdef inline uint8_t fold(uint8_t c) noexcept nogil:
    return c | 0x20 if 0x41 <= c <= 0x5A else c


cdef inline bint same_spans(const uint8_t* a, Span left, const uint8_t* b, Span right) noexcept nogil:
    return left.length == right.length and memcmp(a + left.at, b + right.at, left.length) == 0
