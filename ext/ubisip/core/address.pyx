# SPDX-License-Identifier: Apache-2.0
"""Transport addresses: literal parsing (RFC 3261 section 25.1 IPv4address, IPv6reference) and text."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcpy

from ubisip.core.span cimport Span


cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* out) noexcept
    const char* inet_ntop(int family, const void* address, char* out, uint32_t size) noexcept
    int AF_INET, AF_INET6


cdef bint is_routable(const Address* a) noexcept nogil:
    """One host: not a broadcast, multicast or unspecified address (RFC 4475 section 3.3.10)."""
    if a.port == 0:
        return False
    if is_ipv4(a):
        return 0 < a.ip[12] < 224
    return a.ip[0] != 0xFF and not (a.ip[0] == 0 and a.ip[15] == 0)


cdef inline uint32_t digit_at(const uint8_t* text, uint32_t i) noexcept nogil:
    """Its value; above 9: it is none."""
    return <uint8_t>(text[i] - 0x30)


cdef inline bint parse_ipv4(const uint8_t* text, uint32_t length, uint8_t* ip) noexcept nogil:
    """Four decimal numbers of one to three digits; False for anything else. May look fifteen octets beyond *length*."""
    cdef uint32_t i = 0, number, digit
    cdef int part
    for part in range(4):
        number = digit_at(text, i)
        if number > 9:
            return False
        i += 1
        digit = digit_at(text, i)
        if digit <= 9:
            number = number * 10 + digit
            i += 1
            digit = digit_at(text, i)
            if digit <= 9:
                number = number * 10 + digit
                i += 1
        if number > 255:
            return False
        ip[part] = <uint8_t>number
        if part < 3:
            if text[i] != 0x2E:
                return False
            i += 1
    return i == length


cdef bint parse_ip(const uint8_t* data, Span host, Address* out) noexcept nogil:
    """Read an IPv4 or IPv6 address, in brackets or, as in received, without; False for a name. The port stays."""
    cdef char text[48]
    cdef uint32_t at = host.at, length = host.length
    if length > 3 and data[at] == 0x5B:
        at += 1
        length -= 2
    if parse_ipv4(data + at, length, out.ip + 12):
        memcpy(out.ip, b"\0\0\0\0\0\0\0\0\0\0\xFF\xFF", 12)
        return True
    if length == 0 or length >= sizeof(text) or memchr(data + at, 0x3A, length) == NULL:
        return False
    memcpy(text, data + at, length)
    text[length] = 0
    return inet_pton(AF_INET6, text, out.ip) == 1


cdef uint32_t write_number(uint32_t value, char* out) noexcept nogil:
    """Decimal digits, no terminator; gives their count."""
    cdef char digits[10]
    cdef uint32_t n = 0, i
    while True:
        digits[n] = <char>(0x30 + value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef uint32_t write_ip(const Address* a, bint brackets, char* out) noexcept nogil:
    """Text of the address (at most 48 octets), no terminator; IPv6 in brackets where a URI or sent-by wants them."""
    cdef char text[48]
    cdef uint32_t n = 0, i, length = 0
    if is_ipv4(a):
        for i in range(4):
            if i:
                out[n] = 0x2E
                n += 1
            n += write_number(a.ip[12 + i], out + n)
        return n
    if inet_ntop(AF_INET6, a.ip, text, sizeof(text)) == NULL:
        return 0
    while text[length]:
        length += 1
    if brackets:
        out[0] = 0x5B
        n = 1
    memcpy(out + n, text, length)
    n += length
    if brackets:
        out[n] = 0x5D
        n += 1
    return n


cdef bint address_from_text(str host, int port, Address* out) except *:
    """Fill *out* from a literal; False when *host* is a name.

    :raises ValueError: the port is out of range.
    """
    cdef bytes text = host.encode()
    cdef Span span
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not in 0..65535")
    out.port = <uint16_t>port
    if b":" in text and not text.startswith(b"["):
        text = b"[" + text + b"]"
    span.at = 0
    span.length = <uint32_t>len(text)
    return parse_ip(<const uint8_t*><char*>text, span, out)


cdef tuple address_to_python(const Address* a):
    cdef char text[64]
    cdef uint32_t n = write_ip(a, False, text)
    return text[:n].decode(), a.port
