# SPDX-License-Identifier: Apache-2.0
"""A transport address, IPv4 as IPv4-mapped IPv6, and its text."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from ubisip.core.span cimport Span


cdef enum:
    ANY_STREAM = 0x7FFFFFFF


cdef struct Address:
    uint8_t ip[16]
    uint16_t port        # host order


cdef struct Flow:
    Address peer         # where a datagram came from or goes to
    uint8_t listener     # index of our listener, so an answer leaves from where the request came to
    uint32_t stream      # number of a stream transport's connection; 0: a datagram; ANY_STREAM: whichever leads there


cdef inline bint same_ip(const Address* a, const Address* b) noexcept nogil:
    return memcmp(a.ip, b.ip, 16) == 0


cdef inline bint same_address(const Address* a, const Address* b) noexcept nogil:
    return a.port == b.port and same_ip(a, b)


cdef inline bint is_ipv4(const Address* a) noexcept nogil:
    """It is IPv4-mapped."""
    return memcmp(a.ip, b"\0\0\0\0\0\0\0\0\0\0\xFF\xFF", 12) == 0


cdef bint is_routable(const Address* a) noexcept nogil
cdef bint parse_ip(const uint8_t* data, Span host, Address* out) noexcept nogil
cdef uint32_t write_ip(const Address* a, bint brackets, char* out) noexcept nogil
cdef uint32_t write_number(uint32_t value, char* out) noexcept nogil
cdef bint address_from_text(str host, int port, Address* out) except *
cdef tuple address_to_python(const Address* a)
