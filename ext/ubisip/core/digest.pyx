# SPDX-License-Identifier: Apache-2.0
"""Digest authentication (RFC 7616, RFC 8760, RFC 3261 section 22): credentials, stateless nonces, responses."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from typing import NamedTuple

from ubisip.core.span cimport (
    Cursor, Span, cursor, find_octet, fold, peek, same_name, skip_lws, span_of, take, take_class, take_quoted,
)
from ubisip.core.syntax cimport CLASS_TOKEN, HEX_VALUE, run_of_text
from ubisip.core.token cimport (
    MAX_KEYS, KeyRing, SipHash, read_hex, siphash_add_number, siphash_end, siphash_init, write_hex,
)


cdef extern from "digest.h" nogil:
    ctypedef struct digest_state:
        pass
    void digest_init(digest_state* d, int algorithm) noexcept
    void digest_add(digest_state* d, const uint8_t* data, uint32_t length) noexcept
    void digest_add_hex(digest_state* d, const uint8_t* hash, uint32_t length) noexcept
    void digest_end(digest_state* d, uint8_t* out) noexcept


cdef enum Field:  # the parameters of credentials that we know (RFC 7616 section 3.4)
    FIELD_USERNAME
    FIELD_REALM
    FIELD_NONCE
    FIELD_URI
    FIELD_RESPONSE
    FIELD_CNONCE
    FIELD_NC
    FIELD_QOP
    FIELD_OPAQUE
    FIELD_ALGORITHM
    FIELD_USERHASH
    FIELD_USERNAME_STAR
    FIELD_OTHER


cdef uint32_t REQUIRED = (1 << FIELD_USERNAME | 1 << FIELD_REALM | 1 << FIELD_NONCE | 1 << FIELD_URI
                          | 1 << FIELD_RESPONSE)
cdef uint32_t REQUIRED_BY_QOP = 1 << FIELD_CNONCE | 1 << FIELD_NC

cdef uint32_t NC_LENGTH = 8


cdef Field field_of(const uint8_t* data, Span name) noexcept nogil:
    """By length first: few names are as long as each other."""
    if name.length == 2:
        return FIELD_NC if same_name(data, name, b"nc", 2) else FIELD_OTHER
    if name.length == 3:
        if same_name(data, name, b"uri", 3):
            return FIELD_URI
        return FIELD_QOP if same_name(data, name, b"qop", 3) else FIELD_OTHER
    if name.length == 5:
        if same_name(data, name, b"nonce", 5):
            return FIELD_NONCE
        return FIELD_REALM if same_name(data, name, b"realm", 5) else FIELD_OTHER
    if name.length == 6:
        if same_name(data, name, b"cnonce", 6):
            return FIELD_CNONCE
        return FIELD_OPAQUE if same_name(data, name, b"opaque", 6) else FIELD_OTHER
    if name.length == 8:
        if same_name(data, name, b"response", 8):
            return FIELD_RESPONSE
        if same_name(data, name, b"username", 8):
            return FIELD_USERNAME
        return FIELD_USERHASH if same_name(data, name, b"userhash", 8) else FIELD_OTHER
    if name.length == 9:
        if same_name(data, name, b"algorithm", 9):
            return FIELD_ALGORITHM
        return FIELD_USERNAME_STAR if same_name(data, name, b"username*", 9) else FIELD_OTHER
    return FIELD_OTHER


cdef int algorithm_of(const uint8_t* data, Span name) noexcept nogil:
    """-1: not known, such as the session variants (RFC 7616 section 3.4.2), which no phone is offered."""
    if same_name(data, name, b"md5", 3):
        return ALGORITHM_MD5
    if same_name(data, name, b"sha-256", 7):
        return ALGORITHM_SHA256
    if same_name(data, name, b"sha-512-256", 11):
        return ALGORITHM_SHA512_256
    return -1


cdef bint is_plain(const uint8_t* data, Span text) noexcept nogil:
    """No control character: a fold would not be hashed as it was meant, and others could forge a log line."""
    return run_of_text(data, text.at, text.at + text.length) == text.at + text.length


cdef bint read_value(Cursor* c, Span* value) noexcept nogil:
    """token / quoted-string, either of them whatever the parameter: phones differ. Gives what is between the quotes."""
    cdef uint32_t start = c.at
    if peek(c) != 0x22:
        value[0] = take_class(c, CLASS_TOKEN)
        return value.length > 0
    if not take_quoted(c):
        return False
    value[0] = span_of(start + 1, c.at - 1)
    return is_plain(c.data, value[0])


cdef bint read_nonce_count(const uint8_t* data, Span nc, uint32_t* out) noexcept nogil:
    """nc-value = 8LHEX, in either case of letters."""
    cdef uint32_t value = 0, i
    cdef uint8_t digit
    if nc.length != NC_LENGTH:
        return False
    for i in range(NC_LENGTH):
        digit = HEX_VALUE[fold(data[nc.at + i])]
        if digit > 15:
            return False
        value = value << 4 | digit
    out[0] = value
    return True


cdef bint set_field(Credentials* out, const uint8_t* data, Field field, Span value) noexcept nogil:
    """False: a parameter that we refuse. A hashed or encoded name is only for those to whom a server offers it."""
    if field == FIELD_USERNAME:
        out.username = value
        out.has_escapes = find_octet(data, value.at, value.at + value.length, 0x5C) != value.at + value.length
    elif field == FIELD_REALM:
        out.realm = value
    elif field == FIELD_NONCE:
        out.nonce = value
    elif field == FIELD_URI:
        out.uri = value
    elif field == FIELD_RESPONSE:
        out.response = value
    elif field == FIELD_CNONCE:
        out.cnonce = value
    elif field == FIELD_NC:
        out.nc = value
    elif field == FIELD_QOP:
        out.qop = value
        return value.length > 0
    elif field == FIELD_OPAQUE:
        out.opaque = value
    elif field == FIELD_ALGORITHM:
        out.algorithm = algorithm_of(data, value)
    elif field == FIELD_USERHASH:
        return same_name(data, value, b"false", 5)
    elif field == FIELD_USERNAME_STAR:
        return False
    return True


cdef bint read_parameters(Cursor* c, Credentials* out, uint32_t* found) noexcept nogil:
    """dig-resp *(COMMA dig-resp), in any order, to the end of the value; one that we know may be there only once."""
    cdef Span name, value
    cdef Field field
    while True:
        skip_lws(c)
        name = take_class(c, CLASS_TOKEN)
        skip_lws(c)
        if name.length == 0 or not take(c, 0x3D):
            return False
        skip_lws(c)
        if not read_value(c, &value):
            return False
        field = field_of(c.data, name)
        if field != FIELD_OTHER:
            # Two gateways, or a gateway and a server, could each believe another one.
            if found[0] >> field & 1 or not set_field(out, c.data, field, value):
                return False
            found[0] |= <uint32_t>1 << field
        skip_lws(c)
        if c.at == c.end:
            return True
        if not take(c, 0x2C):
            return False


cdef bint parse_credentials(const uint8_t* data, Span value, Credentials* out) noexcept nogil:
    """Read the value of one Authorization or Proxy-Authorization; nothing beyond it matters.

    *data* is readable for SCAN_PADDING octets beyond the value.
    False: another scheme, or not sound. Whether they are those of a user is for check_nonce() and verify().
    """
    cdef Cursor c = cursor(data, value)
    cdef Span scheme
    cdef uint32_t found = 0
    memset(out, 0, sizeof(Credentials))
    out.algorithm = ALGORITHM_MD5
    skip_lws(&c)
    scheme = take_class(&c, CLASS_TOKEN)
    if not same_name(data, scheme, b"digest", 6):
        return False
    if not read_parameters(&c, out, &found) or found & REQUIRED != REQUIRED:
        return False
    if not found >> FIELD_QOP & 1:
        return True
    return found & REQUIRED_BY_QOP == REQUIRED_BY_QOP and read_nonce_count(data, out.nc, &out.nonce_count)


cdef void add_span(digest_state* d, const uint8_t* data, Span text) noexcept nogil:
    digest_add(d, data + text.at, text.length)


cdef void add_colon(digest_state* d) noexcept nogil:
    digest_add(d, <const uint8_t*>b":", 1)


cdef void make_ha1(int algorithm, const uint8_t* user, uint32_t user_length, const uint8_t* realm,
                   uint32_t realm_length, const uint8_t* password, uint32_t password_length,
                   uint8_t* out) noexcept nogil:
    """H(A1) = H(username ":" realm ":" passwd) as it is, not in hex: digest_size(algorithm) octets."""
    cdef digest_state d
    digest_init(&d, algorithm)
    digest_add(&d, user, user_length)
    add_colon(&d)
    digest_add(&d, realm, realm_length)
    add_colon(&d)
    digest_add(&d, password, password_length)
    digest_end(&d, out)


cdef bint same_response(const uint8_t* data, Span response, const uint8_t* wanted, uint32_t size) noexcept nogil:
    """Hex of *size* octets, 2 * size digits in either case; how long it takes tells nothing of where the two differ."""
    cdef uint8_t difference = 0, bad = 0, high, low
    cdef uint32_t i
    for i in range(size):
        high = HEX_VALUE[fold(data[response.at + 2 * i])]
        low = HEX_VALUE[fold(data[response.at + 2 * i + 1])]
        bad |= high | low
        difference |= <uint8_t>(high << 4 | low & 15) ^ wanted[i]
    return bad < 16 and difference == 0


cdef bint verify(const Credentials* c, const uint8_t* data, const uint8_t* ha1, const uint8_t* method,
                 uint32_t method_length) noexcept nogil:
    """Whether the response is the one of who knows the password (RFC 7616 section 3.4.1).

    *ha1* is H(A1) under the algorithm of *c*, digest_size() octets. False as well for an algorithm that we do not know
    and for qop=auth-int: bodies change on their way through proxies. Nonce, realm and uri are the caller's to check.
    """
    cdef uint8_t hash[DIGEST_MOST]
    cdef uint32_t size
    cdef digest_state d
    if not 0 <= c.algorithm < ALGORITHMS or (c.qop.length and not same_name(data, c.qop, b"auth", 4)):
        return False
    size = digest_size(c.algorithm)
    if c.response.length != 2 * size:
        return False
    digest_init(&d, c.algorithm)  # A2 = Method ":" digest-uri-value
    digest_add(&d, method, method_length)
    add_colon(&d)
    add_span(&d, data, c.uri)
    digest_end(&d, hash)
    digest_init(&d, c.algorithm)
    digest_add_hex(&d, ha1, size)
    add_colon(&d)
    add_span(&d, data, c.nonce)
    add_colon(&d)
    if c.qop.length:
        add_span(&d, data, c.nc)
        add_colon(&d)
        add_span(&d, data, c.cnonce)
        add_colon(&d)
        add_span(&d, data, c.qop)
        add_colon(&d)
    digest_add_hex(&d, hash, size)
    digest_end(&d, hash)
    return same_response(data, c.response, hash, size)


cdef uint64_t nonce_mac(const uint64_t* key, const Nonce* nonce, uint64_t holder) noexcept nogil:
    cdef SipHash h
    siphash_init(&h, key)
    siphash_add_number(&h, <uint64_t>0x4E << 56)  # no other MAC under these keys begins like that
    siphash_add_number(&h, <uint64_t>nonce.seconds << 32 | nonce.salt)
    if holder:
        siphash_add_number(&h, holder)
    return siphash_end(&h)


cdef void write_nonce(const KeyRing* keys, uint32_t seconds, uint32_t salt, uint64_t holder, char* out) noexcept nogil:
    """NONCE_LENGTH octets that every gateway with one of our keys accepts; *seconds* is unix time.

    Nobody keeps a list of the nonces issued: what must be known is in it, and signed. *salt* makes two of one second
    differ, so that each counts its own nc. *holder* stands for whom it is given to (0: anybody):
    for others it is bad.
    """
    cdef Nonce nonce
    nonce.seconds = seconds
    nonce.salt = salt
    write_hex(<uint64_t>seconds << 32 | salt, 16, out)
    write_hex(nonce_mac(keys.key[0], &nonce, holder), 16, out + 16)


cdef NonceState check_nonce(const KeyRing* keys, const uint8_t* data, Span nonce, uint32_t now_seconds,
                            uint32_t lifetime, uint64_t holder, Nonce* out) noexcept nogil:
    """Good for *lifetime* seconds after its issue; *out* is set unless it is bad."""
    cdef uint64_t issue = 0, mac = 0
    cdef int64_t age
    cdef Nonce read
    cdef int i
    if nonce.length != NONCE_LENGTH:
        return NONCE_BAD
    if not (read_hex(data + nonce.at, 16, &issue) and read_hex(data + nonce.at + 16, 16, &mac)):
        return NONCE_BAD
    read.seconds = <uint32_t>(issue >> 32)
    read.salt = <uint32_t>issue
    for i in range(keys.count):
        if nonce_mac(keys.key[i], &read, holder) == mac:
            out[0] = read
            age = <int64_t>now_seconds - <int64_t>read.seconds
            return NONCE_GOOD if -NONCE_AHEAD <= age <= <int64_t>lifetime else NONCE_STALE
    return NONCE_BAD


ALGORITHM_NAMES = ("MD5", "SHA-256", "SHA-512-256")
NONCE_STATES = ("good", "stale", "bad")


class NonceCheck(NamedTuple):
    """What a nonce is worth, and what it tells."""

    state: str
    seconds: int
    salt: int


cdef Span whole(bytes text):
    return span_of(0, <uint32_t>len(text))


cdef KeyRing ring_of(keys) except *:
    """:raises ValueError: no key, or one that is not 16 octets."""
    cdef KeyRing ring
    cdef bytes key
    cdef int i
    if not 1 <= len(keys) <= MAX_KEYS or any(len(key) != 16 for key in keys):
        raise ValueError(f"a key ring has 1 to {MAX_KEYS} keys of 16 octets")
    for i, key in enumerate(keys):
        memcpy(ring.key[i], <const char*>key, 16)
    ring.count = len(keys)
    return ring


def ha1(str algorithm_name not None, str user not None, str realm not None, str password not None) -> bytes:
    cdef uint8_t out[DIGEST_MOST]
    cdef bytes a = user.encode(), b = realm.encode(), c = password.encode()
    cdef int algorithm
    if algorithm_name not in ALGORITHM_NAMES:
        raise ValueError(f"{algorithm_name} is none of {', '.join(ALGORITHM_NAMES)}")
    algorithm = ALGORITHM_NAMES.index(algorithm_name)
    make_ha1(algorithm, a, <uint32_t>len(a), b, <uint32_t>len(b), c, <uint32_t>len(c), out)
    return (<const char*>out)[:digest_size(algorithm)]


cdef str text_of(const uint8_t* data, Span span):
    return (<const char*>data)[span.at:span.at + span.length].decode("utf-8", "surrogateescape")


cdef dict described(const Credentials* c, const uint8_t* data):
    return {
        "username": text_of(data, c.username),
        "realm": text_of(data, c.realm),
        "nonce": text_of(data, c.nonce),
        "uri": text_of(data, c.uri),
        "response": text_of(data, c.response),
        "cnonce": text_of(data, c.cnonce),
        "nc": text_of(data, c.nc),
        "qop": text_of(data, c.qop),
        "opaque": text_of(data, c.opaque),
        "algorithm": ALGORITHM_NAMES[c.algorithm] if c.algorithm >= 0 else "",
        "nonce_count": c.nonce_count,
        "has_escapes": bool(c.has_escapes),
    }


def parse(value):
    cdef Py_buffer view
    cdef Credentials c
    PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
    try:
        if not parse_credentials(<const uint8_t*>view.buf, span_of(0, <uint32_t>view.len), &c):
            return None
        return described(&c, <const uint8_t*>view.buf)
    finally:
        PyBuffer_Release(&view)


cdef bint parse_for(bytes header_value, bytes ha1, Credentials* c):
    """Parse; False as well when *ha1* is not as long as one of the algorithm named."""
    return parse_credentials(header_value, whole(header_value), c) and c.algorithm >= 0 \
        and <uint32_t>len(ha1) == digest_size(c.algorithm)


def check(bytes header_value not None, bytes ha1 not None, bytes method not None) -> bool:
    cdef Credentials c
    return parse_for(header_value, ha1, &c) and verify(&c, header_value, ha1, method, <uint32_t>len(method))


def verify_many(bytes header_value not None, bytes ha1 not None, bytes method not None, int times) -> float:
    cdef const uint8_t* data = header_value
    cdef const uint8_t* secret = ha1
    cdef const uint8_t* name = method
    cdef uint32_t length = <uint32_t>len(method)
    cdef Credentials c
    cdef timespec begin, end
    cdef int verified = 0, _i
    if not parse_for(header_value, ha1, &c):
        raise ValueError("no credentials for this HA1")
    with nogil:
        clock_gettime(CLOCK_MONOTONIC, &begin)
        for _i in range(times):
            verified += verify(&c, data, secret, name, length)
        clock_gettime(CLOCK_MONOTONIC, &end)
    if verified != times:
        raise ValueError("the response is wrong")
    return ((end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)) / times


def nonce(keys, uint32_t seconds, uint32_t salt) -> str:
    cdef KeyRing ring = ring_of(keys)
    cdef char out[NONCE_LENGTH]
    write_nonce(&ring, seconds, salt, 0, out)
    return out[:NONCE_LENGTH].decode("ascii")


def nonce_state(keys, str nonce not None, uint32_t now, uint32_t lifetime):
    cdef KeyRing ring = ring_of(keys)
    cdef bytes text = nonce.encode("utf-8", "surrogateescape")
    cdef Nonce out
    memset(&out, 0, sizeof(Nonce))
    state = NONCE_STATES[check_nonce(&ring, text, whole(text), now, lifetime, 0, &out)]
    return NonceCheck(state, out.seconds, out.salt)
