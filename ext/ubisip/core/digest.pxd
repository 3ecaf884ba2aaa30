# SPDX-License-Identifier: Apache-2.0
"""Digest authentication (RFC 7616, RFC 8760, RFC 3261 section 22): credentials, stateless nonces, responses."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ubisip.core.span cimport Span
from ubisip.core.token cimport KeyRing


cdef extern from "digest.h" nogil:
    ctypedef enum Algorithm "enum digest_algorithm":
        ALGORITHM_MD5
        ALGORITHM_SHA256
        ALGORITHM_SHA512_256
        ALGORITHMS
    enum:
        DIGEST_MOST          # octets of the longest hash
    uint32_t digest_size(int algorithm) noexcept

cdef enum:
    NONCE_LENGTH = 32        # time(8) salt(8) mac(16)
    NONCE_AHEAD = 5          # seconds that the clocks of two gateways may differ

cdef enum NonceState:
    NONCE_GOOD
    NONCE_STALE              # ours, of another time: challenge with stale=true, and nobody is asked for a password
    NONCE_BAD                # none of ours


cdef struct Nonce:
    uint32_t seconds         # when it was issued, unix time
    uint32_t salt


cdef struct Credentials:     # spans without their quotes, as written: a quoted-pair is left as it is
    Span username
    Span realm
    Span nonce
    Span uri
    Span response
    Span cnonce
    Span nc
    Span qop                 # empty: none, the response is the one of RFC 2069
    Span opaque
    int algorithm            # of Algorithm; -1: one that we do not know; MD5 when none is named
    uint32_t nonce_count     # value of nc; 0 without qop
    bint has_escapes         # the username holds quoted-pairs: compare it with no name before they are undone


cdef bint parse_credentials(const uint8_t* data, Span value, Credentials* out) noexcept nogil
cdef bint verify(const Credentials* c, const uint8_t* data, const uint8_t* ha1, const uint8_t* method,
                 uint32_t method_length) noexcept nogil
cdef void make_ha1(int algorithm, const uint8_t* user, uint32_t user_length, const uint8_t* realm,
                   uint32_t realm_length, const uint8_t* password, uint32_t password_length,
                   uint8_t* out) noexcept nogil

cdef void write_nonce(const KeyRing* keys, uint32_t seconds, uint32_t salt, uint64_t holder, char* out) noexcept nogil
cdef NonceState check_nonce(const KeyRing* keys, const uint8_t* data, Span nonce, uint32_t now_seconds,
                            uint32_t lifetime, uint64_t holder, Nonce* out) noexcept nogil
