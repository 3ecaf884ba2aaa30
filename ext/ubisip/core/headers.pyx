# SPDX-License-Identifier: Apache-2.0
"""The header fields that routing needs, read from a span on demand (RFC 3261 section 20)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from ubisip.core.address cimport Address, parse_ip
from ubisip.core.span cimport (
    Cursor, Span, cursor, find_octet, peek, run, same, same_name, skip_lws, span_of, take, take_class, take_number,
    take_quoted,
)
from ubisip.core.syntax cimport CLASS_LWS, CLASS_TOKEN, character_is, run_of_host, run_to_stop


cdef bint read_host(Cursor* c, Span* host) noexcept nogil:
    """host = hostname / IPv4address / IPv6reference, or a bare IPv6 address, which some send in received."""
    cdef uint32_t start = c.at
    if take(c, 0x5B):
        c.at = find_octet(c.data, c.at, c.end, 0x5D)
        if not take(c, 0x5D):
            return False
        host[0] = span_of(start, c.at)
        return host.length > 3
    c.at = run_of_host(c.data, start, c.end)
    host[0] = span_of(start, c.at)
    return host.length > 0


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


cdef bint skip_display_name(Cursor* c) noexcept nogil:
    """display-name = *(token LWS) / quoted-string, up to the angle bracket."""
    if peek(c) == 0x22:
        if not take_quoted(c):
            return False
        skip_lws(c)
        return peek(c) == 0x3C
    c.at = run(c.data, c.at, c.end, CLASS_TOKEN | CLASS_LWS)
    return peek(c) == 0x3C


cdef bint read_bracketed(Cursor* c, Span* uri) noexcept nogil:
    """LAQUOT addr-spec RAQUOT; blanks inside, which the grammar forbids, do not enter the URI (RFC 4475 3.1.2.14)."""
    cdef uint32_t start, end
    c.at += 1
    skip_lws(c)
    start = c.at
    end = find_octet(c.data, start, c.end, 0x3E)
    if end == c.end:
        return False
    c.at = end + 1
    while end > start and character_is(c.data[end - 1], CLASS_LWS):
        end -= 1
    uri[0] = span_of(start, end)
    return uri.length > 0


cdef bint read_bare(Cursor* c, Span* uri) noexcept nogil:
    """addr-spec without brackets: it ends before a semicolon, which starts a header parameter (RFC 3261 section 20)."""
    cdef uint32_t start = c.at, i
    cdef bint colon = False
    cdef uint8_t octet
    c.at = run_to_stop(c.data, start, c.end)
    for i in range(start, c.at):
        octet = c.data[i]
        if octet == 0x3C or octet == 0x3F:
            return False  # a URI with "?" must stand in brackets
        colon = colon or octet == 0x3A
    uri[0] = span_of(start, c.at)
    return colon and (c.at == c.end or (c.data[c.at] != 0x22 and c.data[c.at] != 0x3E))


cdef bint parse_name_addr(const uint8_t* data, Span span, bint many, NameAddr* out) noexcept nogil:
    """( name-addr / addr-spec ) *( SEMI generic-param ), the first of *span*; with *many* a comma may follow."""
    cdef Cursor c = cursor(data, span)
    cdef Cursor start = c
    cdef Span name, value
    memset(out, 0, sizeof(NameAddr))
    out.value.at = c.at
    if skip_display_name(&c):
        if not read_bracketed(&c, &out.uri):
            return False
    else:
        c = start
        if not read_bare(&c, &out.uri):
            return False
    skip_lws(&c)
    while take(&c, 0x3B):
        if c.end - c.at > 4 and memcmp(data + c.at, b"tag=", 4) == 0 and data[c.at + 4] != 0x22 and out.tag.length == 0:
            out.tag.at = c.at + 4
            c.at = run_to_stop(data, c.at + 4, c.end)
            out.tag.length = c.at - out.tag.at
            if out.tag.length == 0:
                return False
            skip_lws(&c)
            continue
        if not read_parameter(&c, &name, &value):
            return False
        if out.tag.length == 0 and same_name(data, name, b"tag", 3):
            out.tag = value
    out.value.length = c.at - out.value.at
    if c.at < c.end:
        if not many or not take(&c, 0x2C):
            return False
        skip_lws(&c)
        if c.at == c.end:
            return False
        out.next = c.at
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
