# SPDX-License-Identifier: Apache-2.0
"""What a message belongs to: the server transaction of a request (RFC 3261 section 17.2.3), the call of any message."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from ubisip.core.message cimport HEADER_ROUTE, METHOD_ACK, METHOD_INVITE, ParsedMessage, next_header
from ubisip.core.span cimport Span


cdef extern from "hash.h" nogil:
    uint64_t hash_octets(uint64_t seed, const uint8_t* data, uint32_t length) noexcept
    uint64_t hash_fold(uint64_t a, uint64_t b) noexcept


cdef bint is_rfc3261_branch(const uint8_t* data, Span branch) noexcept nogil:
    """It starts with the magic cookie and has something behind it (section 8.1.1.7, RFC 4475 section 3.2.1)."""
    return branch.length > 7 and memcmp(data + branch.at, b"z9hG4bK", 7) == 0


cdef inline uint64_t add(uint64_t seed, const ParsedMessage* m, Span span) noexcept nogil:
    return hash_octets(seed, m.data + span.at, span.length)


cdef void end_key(const uint64_t* secret, uint64_t hash, const ParsedMessage* m, bint as_invite,
                  uint64_t* key) noexcept nogil:
    if as_invite or m.method == METHOD_INVITE or m.method == METHOD_ACK:
        hash = hash_fold(hash ^ secret[1], <uint64_t>0x9E3779B97F4A7C15)
    else:
        hash = add(hash ^ secret[1], m, m.method_name)
    key[0] = hash
    # Never as small as a KeyKind, which stands there in the keys of client transactions.
    key[1] = hash_fold(hash, secret[1]) | <uint64_t>1 << 63


cdef void branch_key(const uint64_t* secret, const ParsedMessage* m, Span branch, Span sent_by, bint as_invite,
                     uint64_t* key) noexcept nogil:
    """Branch, sent-by and method; an ACK counts as its INVITE."""
    end_key(secret, add(add(secret[0], m, branch), m, sent_by), m, as_invite, key)


cdef void server_key(const uint64_t* secret, const ParsedMessage* m, bint as_invite, uint64_t* key) noexcept nogil:
    """Key of the server transaction a request belongs to; of an RFC 2543 client by all that it gives."""
    cdef uint64_t hash
    if is_rfc3261_branch(m.data, m.via.branch):
        branch_key(secret, m, m.via.branch, m.via.sent_by, as_invite, key)
        return
    hash = add(add(secret[0], m, m.uri), m, m.from_.tag)
    hash = add(add(hash ^ m.cseq, m, m.call_id), m, m.via.value)
    end_key(secret, hash, m, as_invite, key)


cdef uint64_t call_hash(const ParsedMessage* m) noexcept nogil:
    """Of the Call-ID; the same on every gateway, for the choice of a server rests on it."""
    return add(0, m, m.call_id)


cdef uint32_t tag_hash(const ParsedMessage* m, Span tag) noexcept nogil:
    """Of a tag; the same on every gateway: a dialog's token tells its two sides apart by it."""
    return <uint32_t>add(0, m, tag)


cdef uint32_t loop_hash(const ParsedMessage* m) noexcept nogil:
    """What a request must differ in to be a spiral and no loop (RFC 5393 section 4.2.1): Request-URI and Route set."""
    cdef int line = m.first[HEADER_ROUTE]
    cdef uint64_t hash = add(0, m, m.uri)
    while line >= 0:
        hash = hash_octets(hash, m.data + m.headers[line].value, m.headers[line].value_length)
        line = next_header(m, line)
    return <uint32_t>hash
