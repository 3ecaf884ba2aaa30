# SPDX-License-Identifier: Apache-2.0
"""Keyed MACs: the branch of our Via and the token of our Record-Route (DESIGN section 5).

SipHash-2-4 (Aumasson, Bernstein 2012) with 64-bit tags: made for short messages, and a guess costs a datagram.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ubisip.core.address cimport is_ipv4
from ubisip.core.span cimport Span


cdef uint64_t branch_mac(const uint64_t* key, const Branch* branch, const Vouched* v) noexcept nogil:
    cdef SipHash h
    cdef bint ipv4 = is_ipv4(&v.response_to)
    siphash_init(&h, key)
    siphash_add_number(&h, <uint64_t>(0x42 + ipv4) << 56 | <uint64_t>(v.invite != 0) << 48
                       | <uint64_t>branch.listener << 40 | <uint64_t>branch.attempt << 32 | branch.destination)
    siphash_add_number(&h, <uint64_t>branch.loop << 32 | v.cseq)
    if ipv4:
        siphash_add_number(&h, <uint64_t>v.response_to.port << 32 | (<const uint32_t*>v.response_to.ip)[3])
    else:
        siphash_add(&h, v.response_to.ip, 16)
        siphash_add_number(&h, v.response_to.port)
    # With their lengths, so that two fields cannot be cut differently and give the same input.
    siphash_add_number(&h, <uint64_t>v.call_id.length << 48 | <uint64_t>v.from_tag.length << 32
                       | v.upstream.length << 16 | v.sent_by.length)
    siphash_add(&h, v.data + v.call_id.at, v.call_id.length)
    siphash_add(&h, v.data + v.from_tag.at, v.from_tag.length)
    siphash_add(&h, v.data + v.upstream.at, v.upstream.length)
    siphash_add(&h, v.data + v.sent_by.at, v.sent_by.length)
    return siphash_end(&h)


cdef void sign_branch(const KeyRing* keys, Branch* branch, const Vouched* vouched) noexcept nogil:
    """Give *branch* its MAC under the newest key.

    All that is signed comes back in a response: so a response can be told from a forged one without any state, and the
    same request always gets the same branch, on whichever gateway.
    """
    branch.mac = branch_mac(keys.key[0], branch, vouched)


cdef bint verify_branch(const KeyRing* keys, const Branch* branch, const Vouched* vouched) noexcept nogil:
    cdef int i
    for i in range(keys.count):
        if branch_mac(keys.key[i], branch, vouched) == branch.mac:
            return True
    return False


cdef void write_branch(const Branch* branch, char* out) noexcept nogil:
    memcpy(out, b"z9hG4bKu", 8)
    write_hex(<uint64_t>branch.listener << 8 | branch.attempt, 3, out + 8)
    write_hex(<uint64_t>branch.destination << 32 | branch.loop, 16, out + 11)
    write_hex(branch.mac, 16, out + 27)


cdef bint read_branch(const uint8_t* data, Span text, Branch* out) noexcept nogil:
    """False when the text is no branch of ours; the MAC is still to be verified."""
    cdef uint64_t value = 0
    cdef const uint8_t* at = data + text.at
    if text.length != BRANCH_LENGTH:
        return False
    if memcmp(at, b"z9hG4bKu", 8) != 0:
        return False
    if not read_hex(at + 8, 3, &value):
        return False
    out.attempt = <uint8_t>value
    out.listener = <uint8_t>(value >> 8)
    if not read_hex(at + 11, 16, &value):
        return False
    out.destination = <uint32_t>(value >> 32)
    out.loop = <uint32_t>value
    return read_hex(at + 27, 16, &out.mac)


cdef uint64_t token_mac(const uint64_t* key, const Token* token, const uint8_t* data, Span call_id) noexcept nogil:
    cdef SipHash h
    siphash_init(&h, key)
    siphash_add_number(&h, <uint64_t>0x52 << 56 | <uint64_t>token.tag << 16 | <uint64_t>token.caller_listener << 8
                       | token.callee_listener)
    siphash_add_number(&h, token.caller)
    siphash_add_number(&h, token.callee)
    siphash_add(&h, data + call_id.at, call_id.length)
    return siphash_end(&h)


cdef void write_token(const KeyRing* keys, const Token* token, const uint8_t* data, Span call_id,
                      char* out) noexcept nogil:
    """The u parameter of our Record-Route: all that in-dialog routing needs, good for this Call-ID only."""
    write_hex(token.caller, 16, out)
    write_hex(token.callee, 16, out + 16)
    write_hex(<uint64_t>token.tag << 16 | <uint64_t>token.caller_listener << 8 | token.callee_listener, 12, out + 32)
    write_hex(token_mac(keys.key[0], token, data, call_id), 16, out + 44)


cdef bint read_token(const KeyRing* keys, const uint8_t* data, Span text, Span call_id, Token* out) noexcept nogil:
    """False when the token is not one that a gateway with one of our keys made for this Call-ID."""
    cdef uint64_t rest = 0, mac = 0
    cdef const uint8_t* at = data + text.at
    cdef int i
    if text.length != TOKEN_LENGTH:
        return False
    if not (read_hex(at, 16, &out.caller) and read_hex(at + 16, 16, &out.callee) and read_hex(at + 32, 12, &rest)
            and read_hex(at + 44, 16, &mac)):
        return False
    out.tag = <uint32_t>(rest >> 16)
    out.caller_listener = <uint8_t>(rest >> 8)
    out.callee_listener = <uint8_t>rest
    for i in range(keys.count):
        if token_mac(keys.key[i], out, data, call_id) == mac:
            return True
    return False


cdef uint64_t flow_mac(const uint64_t* key, uint64_t agent, uint32_t reg_id) noexcept nogil:
    cdef SipHash h
    siphash_init(&h, key)
    siphash_add_number(&h, <uint64_t>0x46 << 56 | reg_id)
    siphash_add_number(&h, agent)
    return siphash_end(&h)


cdef void write_flow_token(const KeyRing* keys, uint64_t agent, uint32_t reg_id, char* out) noexcept nogil:
    """The user part of our Path (RFC 5626 section 5.2): whom it leads to, over which of his flows."""
    memcpy(out, b"u-", 2)
    write_hex(agent, 16, out + 2)
    write_hex(reg_id & 0xFFFF, 4, out + 18)
    write_hex(flow_mac(keys.key[0], agent, reg_id & 0xFFFF), 16, out + 22)


cdef bint read_flow_token(const KeyRing* keys, const uint8_t* data, Span text, uint64_t* agent,
                          uint32_t* reg_id) noexcept nogil:
    """False when no gateway with one of our keys made it."""
    cdef uint64_t number = 0, mac = 0
    cdef const uint8_t* at = data + text.at
    cdef int i
    if text.length != FLOW_TOKEN_LENGTH or memcmp(at, b"u-", 2) != 0:
        return False
    if not (read_hex(at + 2, 16, agent) and read_hex(at + 18, 4, &number) and read_hex(at + 22, 16, &mac)):
        return False
    reg_id[0] = <uint32_t>number
    for i in range(keys.count):
        if flow_mac(keys.key[i], agent[0], reg_id[0]) == mac:
            return True
    return False
