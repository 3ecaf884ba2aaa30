# SPDX-License-Identifier: Apache-2.0
"""Keyed MACs: the branch of our Via and the token of our Record-Route (DESIGN section 5)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ubisip.core.address cimport Address
from ubisip.core.span cimport Span

cdef extern from "siphash.h" nogil:
    ctypedef struct SipHash:
        pass
    void siphash_init(SipHash* h, const uint64_t* key) noexcept
    void siphash_add(SipHash* h, const uint8_t* data, uint32_t length) noexcept
    void siphash_add_number(SipHash* h, uint64_t number) noexcept
    uint64_t siphash_end(SipHash* h) noexcept
    void write_hex(uint64_t value, uint32_t digits, char* out) noexcept
    bint read_hex(const uint8_t* data, uint32_t digits, uint64_t* out) noexcept


cdef enum:
    MAX_KEYS = 4             # one that signs, three that may still verify while the ring is rolled
    BRANCH_LENGTH = 43       # "z9hG4bK" "u" listener(1) attempt(2) destination(8) loop(8) mac(16)
    TOKEN_LENGTH = 60        # caller(16) callee(16) tag(8) listeners(2+2) mac(16)
    FLOW_TOKEN_LENGTH = 38   # "u-" agent(16) reg-id(4) mac(16)


cdef struct KeyRing:
    uint64_t key[MAX_KEYS][2]
    int count


cdef struct Branch:
    uint8_t attempt          # which try of the request this is
    uint8_t listener         # the request came to it: a response leaves from there (RFC 3581 section 4)
    uint32_t destination     # id of the destination; 0: none of the platform
    uint32_t loop            # what a request must differ in to be a spiral and no loop (RFC 5393 section 4.2)
    uint64_t mac


cdef struct Vouched:         # what the MAC of a branch vouches for: all of it comes back in a response
    const uint8_t* data
    Span call_id
    Span from_tag
    Span upstream            # branch of the Via below ours
    Span sent_by             # sent-by of that Via
    uint32_t cseq
    bint invite              # INVITE, or the ACK or CANCEL that share its branch
    Address response_to      # where the response goes by that Via


cdef struct Token:
    uint64_t caller          # the peer or agent the dialog was set up from; 0: nobody that is known
    uint64_t callee
    uint32_t tag             # hash of the caller's From tag: tells which way a request goes
    uint8_t caller_listener
    uint8_t callee_listener


cdef void sign_branch(const KeyRing* keys, Branch* branch, const Vouched* vouched) noexcept nogil
cdef bint verify_branch(const KeyRing* keys, const Branch* branch, const Vouched* vouched) noexcept nogil
cdef void write_branch(const Branch* branch, char* out) noexcept nogil
cdef bint read_branch(const uint8_t* data, Span text, Branch* out) noexcept nogil

cdef void write_token(const KeyRing* keys, const Token* token, const uint8_t* data, Span call_id,
                      char* out) noexcept nogil
cdef bint read_token(const KeyRing* keys, const uint8_t* data, Span text, Span call_id, Token* out) noexcept nogil

cdef void write_flow_token(const KeyRing* keys, uint64_t agent, uint32_t reg_id, char* out) noexcept nogil
cdef bint read_flow_token(const KeyRing* keys, const uint8_t* data, Span text, uint64_t* agent,
                          uint32_t* reg_id) noexcept nogil
