# SPDX-License-Identifier: Apache-2.0
"""One SIP message: an index of spans over a datagram (RFC 3261 sections 7 and 25)."""
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t

from ubisip.core.headers cimport NameAddr, Via
from ubisip.core.span cimport Span
from ubisip.core.uri cimport Uri


cdef extern from "scan.h" nogil:
    ctypedef struct scan_header:
        uint32_t line
        uint32_t value
        uint32_t value_length
        uint16_t name_length
        uint8_t id
        uint8_t folded
    int SCAN_PADDING
    enum:
        MAX_HEADERS
        HEADER_OTHER
        HEADER_VIA
        HEADER_FROM
        HEADER_TO
        HEADER_CALL_ID
        HEADER_CSEQ
        HEADER_MAX_FORWARDS
        HEADER_CONTENT_LENGTH
        HEADER_ROUTE
        HEADER_RECORD_ROUTE
        HEADER_PROXY_REQUIRE
        HEADER_RETRY_AFTER
        HEADER_TIMESTAMP
        HEADER_RESOURCE_PRIORITY
        HEADER_CHALLENGE
        HEADER_IDS


cdef enum Method:
    METHOD_OTHER
    METHOD_INVITE
    METHOD_ACK
    METHOD_CANCEL
    METHOD_BYE
    METHOD_OPTIONS
    METHOD_REGISTER
    METHOD_MESSAGE
    METHOD_PUBLISH


cdef struct ParsedMessage:
    const uint8_t* data    # readable for SCAN_PADDING octets beyond size
    uint32_t size          # octets after Content-Length are left out
    bint is_request
    Method method          # of a response: the one in CSeq
    Span method_name
    Span uri               # Request-URI
    uint16_t status
    Span reason
    uint32_t start         # first octet of the start line
    uint32_t start_end     # first octet after the start line
    uint32_t body          # first octet of the body
    int count              # header lines in the index
    bint via_sound         # the top Via can be answered to
    Span call_id
    uint32_t cseq
    Span cseq_method
    int max_forwards       # -1: absent
    # When it is not sound: what to answer, why, and where parsing stopped.
    uint16_t error
    const char* error_reason
    uint32_t error_at
    # What precedes is cleared for each message; what follows by whoever reads it. Nothing of it is there when the start
    # line has no end.
    Uri request_uri        # the Request-URI, read (requests only)
    Via via
    NameAddr from_
    NameAddr to
    int16_t first[16]      # index of the first line of each header id; -1: none
    int16_t last[16]       # right behind it: that of the last one, where there is a first
    scan_header headers[MAX_HEADERS + 1]  # right behind that; the last one used is only the line behind them


cdef bint parse_message(ParsedMessage* m, const uint8_t* data, uint32_t size) noexcept nogil

cdef inline Span header_value(const ParsedMessage* m, int index) noexcept nogil:
    cdef Span span
    span.at = m.headers[index].value
    span.length = m.headers[index].value_length
    return span


cdef inline uint32_t header_end(const ParsedMessage* m, int index) noexcept nogil:
    """Where the line behind this one starts."""
    return m.headers[index + 1].line


cdef inline int next_header(const ParsedMessage* m, int after) noexcept nogil:
    """The next line of the same header as line *after*; -1: none."""
    cdef uint8_t id = m.headers[after].id
    if after >= m.last[id]:
        return -1
    after += 1
    while m.headers[after].id != id:
        after += 1
    return after


cdef Method method_of(const uint8_t* data, Span name) noexcept nogil
