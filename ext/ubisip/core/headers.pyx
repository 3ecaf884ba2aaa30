# SPDX-License-Identifier: Apache-2.0
"""The header fields that routing needs, read from a span on demand (RFC 3261 section 20)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from ubisip.core.address cimport Address, parse_ip
from ubisip.core.span cimport (
    Cursor, Span, cursor, find_octet, peek, run, same_name, skip_lws, span_of, take, take_class, take_number,
    take_quoted,
)
from ubisip.core.syntax cimport CLASS_LWS, CLASS_TOKEN, character_is, run_to_stop


cdef bint read_value(Cursor* c, Span* value) noexcept nogil:
    """gen-value = token / host / quoted-string, and what else is met there up to a separator."""
    cdef uint32_t start = c.at
    if peek(c) == 0x22:
        if not take_quoted(c):
            return False
    else:
        c.at = run_to_stop(c.data, start, c.end)
    value[0] = span_of(start, c.at)
    return value.length > 0


cdef bint read_parameter(Cursor* c, Span* name, Span* value) noexcept nogil:
    """One generic-param, the cursor behind its semicolon; False when it breaks the grammar (an empty one does)."""
    skip_lws(c)
    name[0] = take_class(c, CLASS_TOKEN)
    value[0] = span_of(c.at, c.at)
    if name.length == 0:
        return False
    skip_lws(c)
    if take(c, 0x3D):
        skip_lws(c)
        if not read_value(c, value):
            return False
        skip_lws(c)
    return True


cdef bint read_via_parameter(const uint8_t* data, Cursor* c, Via* out) noexcept nogil:
    cdef uint32_t semicolon = c.at - 1
    cdef Span name, value
    if c.end - c.at > 7 and memcmp(data + c.at, b"branch=", 7) == 0 and data[c.at + 7] != 0x22:
        out.branch.at = c.at + 7
        c.at = run_to_stop(data, c.at + 7, c.end)
        out.branch.length = c.at - out.branch.at
        skip_lws(c)
        return out.branch.length > 0
    if not read_parameter(c, &name, &value):
        return False
    if same_name(data, name, b"branch", 6):
        out.branch = value
    elif same_name(data, name, b"received", 8):
        out.received = value
        out.has_received = True
    elif same_name(data, name, b"maddr", 5):
        out.has_maddr = True
    elif same_name(data, name, b"rport", 5):
        out.rport = value
        out.has_rport = True
        out.rport_parameter = span_of(semicolon, name.at + name.length)
    return True


cdef bint read_sent_protocol(Cursor* c, Span* transport) noexcept nogil:
    """sent-protocol = protocol-name SLASH protocol-version SLASH transport, white space behind it."""
    cdef int i
    cdef Span name
    for i in range(2):
        name = take_class(c, CLASS_TOKEN)
        if name.length == 0 or (i == 0 and not same_name(c.data, name, b"sip", 3)):
            return False
        skip_lws(c)
        if not take(c, 0x2F):
            return False
        skip_lws(c)
    transport[0] = take_class(c, CLASS_TOKEN)
    return transport.length > 0 and c.at < c.end and character_is(c.data[c.at], CLASS_LWS)


cdef bint parse_via(const uint8_t* data, Span span, Via* out) noexcept nogil:
    """via-parm = sent-protocol LWS sent-by *( SEMI via-params ), the first of *span*; False: it breaks the grammar."""
    cdef Cursor c = cursor(data, span)
    cdef uint64_t port = 0
    cdef uint32_t end
    memset(out, 0, sizeof(Via))
    out.value.at = c.at
    if span.length > 12 and memcmp(data + c.at, b"SIP/2.0/UDP ", 12) == 0:  # as nearly always
        out.transport = span_of(c.at + 8, c.at + 11)
        c.at += 12
    elif not read_sent_protocol(&c, &out.transport):
        return False
    skip_lws(&c)
    if not read_host(&c, &out.host):
        return False
    end = c.at
    skip_lws(&c)
    if take(&c, 0x3A):
        skip_lws(&c)
        if not take_number(&c, 65535, &port):
            return False
        out.port = <uint16_t>port
        end = c.at
        skip_lws(&c)
    out.sent_by = span_of(out.host.at, end)
    while take(&c, 0x3B):
        if not read_via_parameter(data, &c, out):
            return False
    out.value.length = c.at - out.value.at
    while out.value.length and character_is(data[out.value.at + out.value.length - 1], CLASS_LWS):
        out.value.length -= 1
    if c.at < c.end:
        if not take(&c, 0x2C):
            return False
        skip_lws(&c)
        if c.at == c.end:
            return False
        out.next = c.at
    return True


# Parts of a name-addr: from where to begin and where the value ends to where they ended; 0: it breaks the grammar.

cdef inline uint32_t skip_blanks(const uint8_t* data, uint32_t at, uint32_t end) noexcept nogil:
    return run(data, at, end, CLASS_LWS)


cdef inline uint32_t skip_display_name(const uint8_t* data, uint32_t at, uint32_t end) noexcept nogil:
    """display-name = *(token LWS) / quoted-string, up to the angle bracket; *end*: there is none."""
    cdef Cursor c
    if at < end and data[at] == 0x22:
        c = cursor(data, span_of(at, end))
        if not take_quoted(&c):
            return end
        at = skip_blanks(data, c.at, end)
    else:
        at = run(data, at, end, CLASS_TOKEN | CLASS_LWS)
    return at if at < end and data[at] == 0x3C else end


cdef inline uint32_t read_bracketed(const uint8_t* data, uint32_t at, uint32_t end, Span* uri) noexcept nogil:
    """LAQUOT addr-spec RAQUOT; blanks inside, which the grammar forbids, do not enter the URI (RFC 4475 3.1.2.14)."""
    cdef uint32_t start = skip_blanks(data, at + 1, end), stop = find_octet(data, start, end, 0x3E), last = stop
    if stop == end:
        return 0
    while last > start and character_is(data[last - 1], CLASS_LWS):
        last -= 1
    uri[0] = span_of(start, last)
    return stop + 1 if last > start else 0


cdef uint32_t read_bare(const uint8_t* data, uint32_t start, uint32_t end, Span* uri) noexcept nogil:
    """addr-spec without brackets: it ends before a semicolon, which starts a header parameter (RFC 3261 section 20)."""
    cdef uint32_t stop = run_to_stop(data, start, end), i
    cdef bint colon = False
    cdef uint8_t octet
    for i in range(start, stop):
        octet = data[i]
        if octet == 0x3C or octet == 0x3F:
            return 0  # a URI with "?" must stand in brackets
        colon = colon or octet == 0x3A
    uri[0] = span_of(start, stop)
    return stop if colon and (stop == end or (data[stop] != 0x22 and data[stop] != 0x3E)) else 0


cdef uint32_t read_any_parameter(const uint8_t* data, uint32_t at, uint32_t end, Span* tag) noexcept nogil:
    """generic-param in any form; its value goes to *tag* if that is its name, and it is the first."""
    cdef Cursor c = cursor(data, span_of(at, end))
    cdef Span name, value
    if not read_parameter(&c, &name, &value):
        return 0
    if tag.length == 0 and same_name(data, name, b"tag", 3):
        tag[0] = value
    return c.at


cdef bint parse_name_addr(const uint8_t* data, Span span, bint many, NameAddr* out) noexcept nogil:
    """( name-addr / addr-spec ) *( SEMI generic-param ), the first of *span*; with *many* a comma may follow."""
    cdef uint32_t end = span.at + span.length, at = skip_display_name(data, span.at, end), start
    memset(out, 0, sizeof(NameAddr))
    out.value.at = span.at
    at = read_bracketed(data, at, end, &out.uri) if at < end else read_bare(data, span.at, end, &out.uri)
    if at == 0:
        return False
    at = skip_blanks(data, at, end)
    while at < end and data[at] == 0x3B:
        start = at + 5
        if start < end and memcmp(data + at + 1, b"tag=", 4) == 0 and data[start] != 0x22 and out.tag.length == 0:
            at = run_to_stop(data, start, end)
            if at == start:
                return False
            out.tag = span_of(start, at)
            at = skip_blanks(data, at, end)
        else:
            at = read_any_parameter(data, at + 1, end, &out.tag)
            if at == 0:
                return False
    out.value.length = at - span.at
    if at < end:
        if not many or data[at] != 0x2C:
            return False
        out.next = skip_blanks(data, at + 1, end)
        return out.next < end
    return True


cdef bint via_response_address(const uint8_t* data, const Via* via, Address* out) noexcept nogil:
    """Where a response goes by this Via (RFC 3261 section 18.2.2, RFC 3581 section 4); False: it names no address."""
    cdef Cursor c
    cdef uint64_t port = 0
    cdef Span host = via.host
    if via.has_received:
        host = via.received
    if not parse_ip(data, host, out):
        return False
    out.port = via.port if via.port else 5060
    if via.rport.length:
        c = cursor(data, via.rport)
        if not take_number(&c, 65535, &port) or c.at != c.end or port == 0:
            return False
        out.port = <uint16_t>port
    return True
