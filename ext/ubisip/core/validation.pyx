# SPDX-License-Identifier: Apache-2.0
"""Request validation (RFC 3261 section 16.3)."""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from ubisip.core.address cimport Flow
from ubisip.core.headers cimport Via, parse_via
from ubisip.core.identity cimport loop_hash
from ubisip.core.message cimport HEADER_PROXY_REQUIRE, HEADER_VIA, METHOD_ACK, ParsedMessage, header_value, next_header
from ubisip.core.proxy cimport LOOPS, MALFORMED_DROPPED, Proxy
from ubisip.core.reply cimport answer
from ubisip.core.span cimport Span, span_of
from ubisip.core.token cimport Branch, read_branch
from ubisip.core.uri cimport SCHEME_SIP, SCHEME_SIPS, SCHEME_TEL

cdef enum:
    MAX_VIAS = 100           # Max-Forwards is 70; a longer stack is only there to be walked


cdef bint require_tags(const ParsedMessage* m, char* out, uint32_t most) noexcept nogil:
    """An Unsupported line of every tag in Proxy-Require: this proxy has no extension (section 20.29). False: no tag."""
    cdef int line = m.first[HEADER_PROXY_REQUIRE]
    cdef uint32_t at = 13
    cdef Span value
    memcpy(out, b"Unsupported: ", 13)
    while line >= 0:
        value = header_value(m, line)
        if value.length == 0:
            line = next_header(m, line)
            continue
        if at + value.length + 8 > most:
            break
        if at > 13:
            memcpy(out + at, b", ", 2)
            at += 2
        memcpy(out + at, m.data + value.at, value.length)
        at += value.length
        line = next_header(m, line)
    memcpy(out + at, b"\r\n\0", 3)
    return at > 13


cdef int check_vias(const Proxy* p, const ParsedMessage* m) noexcept nogil:
    """Walk the Via stack: 482 when one of ours shows the same Request-URI and Routes (RFC 5393), 400 when absurd."""
    cdef int line = m.first[HEADER_VIA], _count
    cdef uint32_t at = m.via.next
    cdef Via via = m.via
    cdef Branch branch
    for _count in range(MAX_VIAS):
        if read_branch(m.data, via.branch, &branch) and branch.loop == loop_hash(m):
            return 482
        if at == 0:
            line = next_header(m, line)
            if line < 0:
                return 0
            at = m.headers[line].value
        if not parse_via(m.data, span_of(at, m.headers[line].value + m.headers[line].value_length), &via):
            return 400
        at = via.next
    return 400


cdef bint validate(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil:
    """The checks of section 16.3, in its order; False: the request was answered, or dropped if it is an ACK."""
    cdef char unsupported[1024]
    cdef const char* extra = NULL
    cdef const char* reason = NULL
    cdef int status = 0, vias
    if m.request_uri.scheme != SCHEME_SIP and m.request_uri.scheme != SCHEME_SIPS and \
            m.request_uri.scheme != SCHEME_TEL:
        status = 416
        reason = b"Unsupported URI Scheme"
    elif m.max_forwards == 0:
        status = 483
        reason = b"Too Many Hops"
    elif m.first[HEADER_PROXY_REQUIRE] >= 0 and require_tags(m, unsupported, sizeof(unsupported)):
        status = 420
        reason = b"Bad Extension"
        extra = unsupported
    else:
        vias = check_vias(p, m)
        if vias == 482:
            p.counters[LOOPS] += 1
            status = 482
            reason = b"Loop Detected"
        elif vias:
            status = 400
            reason = b"Bad Via"
    if status == 0:
        return True
    if m.method == METHOD_ACK:
        p.counters[MALFORMED_DROPPED] += 1
    else:
        answer(p, m, from_, status, reason, extra)
    return False
