# SPDX-License-Identifier: Apache-2.0
"""RFC 3261 section 19.1: SIP URIs, read from a span on demand."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ubisip.core.headers cimport read_host
from ubisip.core.span cimport (
    Cursor, Span, cursor, find_octet, fold, peek, same_name, span_of, take, take_number,
)
from ubisip.core.syntax cimport CLASS_ALPHA, CLASS_HOST, character_is, run_of_uri


cdef Scheme read_scheme(const uint8_t* data, Span span, uint32_t* colon) noexcept nogil:
    """scheme = ALPHA *( ALPHA / DIGIT / "+" / "-" / "." ) before the first colon."""
    cdef uint32_t i = span.at, end = span.at + span.length
    cdef Span name
    # The common ones at once; the four octets are there, for a datagram is readable beyond its end.
    if fold(data[i]) == 0x73 and fold(data[i + 1]) == 0x69 and fold(data[i + 2]) == 0x70 and data[i + 3] == 0x3A \
            and span.length > 3:
        colon[0] = i + 3
        return SCHEME_SIP
    while i < end and (character_is(data[i], CLASS_HOST) or data[i] == 0x2B) and data[i] != 0x5F:
        i += 1
    if i == end or data[i] != 0x3A or i == span.at or not character_is(data[span.at], CLASS_ALPHA):
        return SCHEME_BAD
    colon[0] = i
    name = span_of(span.at, i)
    if same_name(data, name, b"sip", 3):
        return SCHEME_SIP
    if same_name(data, name, b"sips", 4):
        return SCHEME_SIPS
    if same_name(data, name, b"tel", 3):
        return SCHEME_TEL
    return SCHEME_UNKNOWN


cdef bint parse_uri(const uint8_t* data, Span span, Uri* out) noexcept nogil:
    """Read *span*; False when it breaks the grammar. Of schemes other than sip and sips only the scheme is read."""
    cdef uint32_t colon = 0, at, end = span.at + span.length
    cdef uint64_t port = 0
    cdef Cursor c
    memset(out, 0, sizeof(Uri))
    out.scheme = read_scheme(data, span, &colon)
    if out.scheme == SCHEME_BAD:
        return False
    if run_of_uri(data, colon, end) != end:
        return False
    if out.scheme == SCHEME_TEL:
        c = cursor(data, span_of(colon + 1, end))
        while c.at < c.end and c.data[c.at] != 0x3B:
            c.at += 1
        out.user = span_of(colon + 1, c.at)
        out.has_user = True
        return out.user.length > 0
    if out.scheme == SCHEME_UNKNOWN:
        return True
    c = cursor(data, span_of(colon + 1, end))
    at = find_octet(data, c.at, end, 0x40)
    if at != end:
        out.user = span_of(c.at, at)
        out.has_user = True
        if out.user.length == 0:
            return False
        out.user.length = find_octet(data, c.at, at, 0x3A) - c.at
        c.at = at + 1
    if not read_host(&c, &out.host):
        return False
    if take(&c, 0x3A):
        if not take_number(&c, 65535, &port) or port == 0:
            return False
        out.port = <uint16_t>port
    out.hostport = span_of(out.host.at, c.at)
    at = c.at
    if peek(&c) == 0x3B:
        c.at = find_octet(data, at, end, 0x3F)
        out.parameters = span_of(at, c.at)
    if peek(&c) == 0x3F:
        out.headers = span_of(c.at, end)
        c.at = end
    return c.at == end


cdef bint uri_parameter(const uint8_t* data, const Uri* uri, const char* lower, uint32_t length,
                        Span* value) noexcept nogil:
    """Find the parameter named *lower*; its value, empty when it has none, goes to *value*."""
    cdef uint32_t at = uri.parameters.at, end = uri.parameters.at + uri.parameters.length, start, stop, equals
    while at < end:
        start = at + 1
        stop = find_octet(data, start, end, 0x3B)
        equals = find_octet(data, start, stop, 0x3D)
        if same_name(data, span_of(start, equals), lower, length):
            value[0] = span_of(equals + 1, stop) if equals < stop else span_of(stop, stop)
            return True
        at = stop
    return False
