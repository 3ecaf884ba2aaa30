# SPDX-License-Identifier: Apache-2.0
"""What a message belongs to: the server transaction of a request (RFC 3261 section 17.2.3), the call of any message."""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp

from ubisip.core.message cimport METHOD_ACK, METHOD_INVITE, ParsedMessage
from ubisip.core.span cimport Span
from ubisip.core.token cimport SipHash, siphash_add, siphash_add_number, siphash_end, siphash_end_second, siphash_init


cdef bint is_rfc3261_branch(const uint8_t* data, Span branch) noexcept nogil:
    """It starts with the magic cookie and has something behind it (section 8.1.1.7, RFC 4475 section 3.2.1)."""
    return branch.length > 7 and memcmp(data + branch.at, b"z9hG4bK", 7) == 0


cdef void end_key(SipHash* h, const ParsedMessage* m, bint as_invite, uint64_t* key) noexcept nogil:
    if as_invite or m.method == METHOD_INVITE or m.method == METHOD_ACK:
        siphash_add_number(h, METHOD_INVITE)
    else:
        siphash_add(h, m.data + m.method_name.at, m.method_name.length)
    key[0] = siphash_end(h)
    key[1] = siphash_end_second(h)


cdef void branch_key(const uint64_t* secret, const ParsedMessage* m, Span branch, Span sent_by, bint as_invite, uint64_t* key) noexcept nogil:
    """Branch, sent-by and method; an ACK counts as its INVITE."""
    cdef SipHash h
    siphash_init(&h, secret)
    siphash_add(&h, m.data + branch.at, branch.length)
    siphash_add(&h, m.data + sent_by.at, sent_by.length)
    end_key(&h, m, as_invite, key)


cdef void server_key(const uint64_t* secret, const ParsedMessage* m, bint as_invite, uint64_t* key) noexcept nogil:
    """Key of the server transaction a request belongs to; of an RFC 2543 client by all that it gives."""
    cdef SipHash h
    if is_rfc3261_branch(m.data, m.via.branch):
        branch_key(secret, m, m.via.branch, m.via.sent_by, as_invite, key)
        return
    siphash_init(&h, secret)
    siphash_add(&h, m.data + m.uri.at, m.uri.length)
    siphash_add(&h, m.data + m.from_.tag.at, m.from_.tag.length)
    siphash_add(&h, m.data + m.call_id.at, m.call_id.length)
    siphash_add_number(&h, m.cseq)
    siphash_add(&h, m.data + m.via.value.at, m.via.value.length)
    end_key(&h, m, as_invite, key)


cdef uint64_t call_hash(const ParsedMessage* m) noexcept nogil:
    """Of the Call-ID; the same on every gateway, for the choice of a server rests on it."""
    cdef uint64_t key[2]
    cdef SipHash h
    key[0] = key[1] = 0
    siphash_init(&h, key)
    siphash_add(&h, m.data + m.call_id.at, m.call_id.length)
    return siphash_end(&h)
