# SPDX-License-Identifier: Apache-2.0
"""RFC 3261 section 19.1: SIP URIs, read from a span on demand."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from ubisip.core.span cimport Span

cdef enum Scheme:
    SCHEME_BAD           # not a URI at all
    SCHEME_UNKNOWN       # some other scheme
    SCHEME_SIP
    SCHEME_SIPS
    SCHEME_TEL


cdef struct Uri:
    Scheme scheme
    Span user            # without password; empty when there is none
    bint has_user
    Span host            # IPv6 with its brackets
    Span hostport        # host, and port when written
    uint16_t port        # 0: not written
    Span parameters      # from the first ";", empty when there are none
    Span headers         # from the "?"


cdef bint parse_uri(const uint8_t* data, Span span, Uri* out) noexcept nogil
cdef bint uri_parameter(const uint8_t* data, const Uri* uri, const char* lower, uint32_t length,
                        Span* value) noexcept nogil
