# SPDX-License-Identifier: Apache-2.0
"""What a REGISTER says (RFC 3261 section 10.3, RFC 3327, RFC 5626): whose it is, its contacts, their times and Path."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.bindings cimport MAX_AOR, MAX_PATH, Wanted
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy
from ubisip.core.span cimport Span

cdef enum:
    MAX_WANTED = 64          # contacts in one REGISTER
    UNSUPPORTED_MOST = 1024  # octets of an Unsupported line

cdef enum Field:
    FIELD_OTHER
    FIELD_CONTACT
    FIELD_EXPIRES
    FIELD_AUTHORIZATION
    FIELD_REQUIRE
    FIELD_SUPPORTED
    FIELD_PATH
    FIELD_USER_AGENT


cdef struct Register:        # a REGISTER as it is worked on
    uint8_t field[256]       # of each header line
    uint8_t aor[MAX_AOR]
    uint32_t aor_length
    uint32_t user_length     # of the user part in it
    uint64_t hash
    bint outbound            # Supported: outbound
    uint32_t rtt             # microseconds from the challenge to its answer; 0: not known
    bint replayed            # with a nonce count seen before: it may only repeat what it did
    Wanted wanted[MAX_WANTED]
    int count
    bint star
    uint8_t path[MAX_PATH]
    uint32_t path_length
    Span user_agent
    Flow flow


cdef uint32_t put(uint8_t* out, uint32_t at, const char* text, uint32_t length) noexcept nogil
cdef bint is_for_registrar(const Proxy* p, const ParsedMessage* m) noexcept nogil
cdef bint canonical_aor(const Proxy* p, const uint8_t* data, Span uri, uint8_t* out, uint32_t* length,
                        uint32_t* user_length) noexcept nogil
cdef void name_fields(const ParsedMessage* m, Register* r) noexcept nogil
cdef bint has_tag(const ParsedMessage* m, const Register* r, int field, const char* tag,
                  uint32_t length) noexcept nogil
cdef bint refuse_extensions(const ParsedMessage* m, const Register* r, uint8_t* out) noexcept nogil
cdef bint read_contacts(const ParsedMessage* m, Register* r) noexcept nogil
cdef int64_t header_expires(const ParsedMessage* m, const Register* r) noexcept nogil
cdef bint read_path(const ParsedMessage* m, Register* r) noexcept nogil
cdef bint first_hop_is_outbound(const Register* r) noexcept nogil
cdef bint is_flow(const Register* r, const Wanted* wanted) noexcept nogil
cdef bint goes_by_contact(const Proxy* p, const ParsedMessage* m, const Flow* from_, const Wanted* wanted,
                          bint has_path) noexcept nogil
