# SPDX-License-Identifier: Apache-2.0
"""The header fields that routing needs, read from a span on demand (RFC 3261 section 20)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ubisip.core.address cimport Address
from ubisip.core.span cimport Cursor, Span, find_octet, span_of, take
from ubisip.core.syntax cimport run_of_host

cdef struct Via:
    Span value           # the whole via-parm, white space at its ends left out
    Span transport
    Span host
    Span sent_by         # host, and port when written
    uint16_t port        # 0: not written
    Span branch
    Span received        # the parameter's value
    Span rport           # the parameter's value
    Span rport_parameter  # ";rport" itself, so that it can be given its value
    bint has_rport
    bint has_received
    bint has_maddr
    uint32_t next        # where the next via-parm of the same line starts; 0: this is the last


cdef struct NameAddr:
    Span uri
    Span tag
    Span value           # from the display name to the last parameter, for comparing
    uint32_t next        # where the next value of a comma-separated list starts; 0: none


cdef bint parse_via(const uint8_t* data, Span span, Via* out) noexcept nogil
cdef bint parse_name_addr(const uint8_t* data, Span span, bint many, NameAddr* out) noexcept nogil
cdef bint via_response_address(const uint8_t* data, const Via* via, Address* out) noexcept nogil
cdef bint read_parameter(Cursor* c, Span* name, Span* value) noexcept nogil


cdef inline bint read_host(Cursor* c, Span* host) noexcept nogil:
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
