# SPDX-License-Identifier: Apache-2.0
"""Who may register (RFC 3261 section 22, RFC 7616, RFC 8760): challenges, credentials, wrong passwords counted."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from ubisip.core.accounts cimport NONCE_FRESH, NONCE_USED, Account, account_ha1, account_key, find_account, use_nonce
from ubisip.core.address cimport Address, Flow
from ubisip.core.contacts cimport FIELD_AUTHORIZATION, Register, put
from ubisip.core.digest cimport (
    ALGORITHM_SHA256, ALGORITHM_SHA512_256, NONCE_GOOD, NONCE_LENGTH, Credentials, Nonce, check_nonce,
    parse_credentials, verify, write_nonce,
)
from ubisip.core.message cimport ParsedMessage, header_value
from ubisip.core.proxy cimport CHALLENGED, MALFORMED_REQUESTS, TRIES, TRIES_REFUSED, WRONG_PASSWORDS, Proxy, Tries
from ubisip.core.reply cimport respond
from ubisip.core.snapshot cimport Text
from ubisip.core.span cimport Span
from ubisip.core.targets cimport allow

cdef extern from "hash.h" nogil:
    uint64_t hash_fold(uint64_t a, uint64_t b) noexcept


cdef enum:
    NONCE_LIFETIME = 600     # seconds: a phone that registers anew within it need not be challenged again
    TRIES_OF_USER = 10       # wrong passwords for one user from one address before it has to wait,
    TRY_EVERY = 6            # seconds for one more
    TRIES_OF_SOURCE = 200    # the same for all users from one address, behind which an office may stand


# --- nonces

cdef uint32_t wall_seconds(const Proxy* p) noexcept nogil:
    return <uint32_t>((p.now + p.view.wall) // 1000000)


cdef uint64_t holder_of(const Address* source) noexcept nogil:
    """Whom a nonce is given to: what somebody has overheard is of no use to him elsewhere, on whichever gateway."""
    cdef uint64_t low, high
    memcpy(&low, source.ip, 8)
    memcpy(&high, source.ip + 8, 8)
    return hash_fold(low ^ <uint64_t>0xA0761D6478BD642F, high ^ <uint64_t>0xE7037ED1A0B428DB) | 1


cdef uint32_t next_salt(Proxy* p) noexcept nogil:
    """The milliseconds of a nonce's time, by which the phone's round trip is told, and 22 bits that go up with each."""
    p.registrar.nonces += 1
    return <uint32_t>((p.now + p.view.wall) // 1000 % 1000) << 22 | (p.registrar.nonces & 0x3FFFFF)


# --- challenges

cdef uint32_t put_challenge(uint8_t* out, uint32_t at, const Proxy* p, const char* nonce, int algorithm,
                            bint stale) noexcept nogil:
    at = put(out, at, b"WWW-Authenticate: Digest realm=\"", 32)
    at = put(out, at, p.view.agents.realm.text, p.view.agents.realm.length)
    at = put(out, at, b"\", nonce=\"", 10)
    at = put(out, at, nonce, NONCE_LENGTH)
    at = put(out, at, b"\", qop=\"auth\", algorithm", 24)
    # Clients from before RFC 8760 look for the first "algorithm=" of all the challenges, and give up if it is not MD5:
    # so the others are written with the blank that the grammar allows (EQUAL, RFC 3261 section 25.1).
    if algorithm == ALGORITHM_SHA256:
        at = put(out, at, b" =SHA-256", 9)
    elif algorithm == ALGORITHM_SHA512_256:
        at = put(out, at, b" =SHA-512-256", 13)
    else:
        at = put(out, at, b"=MD5", 4)
    if stale:
        at = put(out, at, b", stale=true", 12)
    return put(out, at, b"\r\n", 2)


cdef int offered(const Proxy* p, const Account* account) noexcept nogil:
    """The algorithms a user is challenged by; one who does not exist by those of all that are known.

    Who has nothing for any that the configuration offers is challenged by all these, and cannot answer.
    """
    cdef int has = p.view.agents.offered & (account.has if account != NULL else p.registrar.algorithms)
    return has if has else p.view.agents.offered


cdef void challenge(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, const Account* account,
                    bint stale) noexcept nogil:
    """401 with what this agent can be authenticated by, what is preferred first (RFC 8760 section 2.3)."""
    cdef char nonce[NONCE_LENGTH]
    cdef uint8_t out[2048]
    cdef uint32_t at = 0
    cdef int has = offered(p, account), i
    write_nonce(&p.keys, wall_seconds(p), next_salt(p), holder_of(&from_.peer), nonce)
    p.counters[CHALLENGED] += 1
    for i in range(p.view.agents.algorithm_count):
        if has & (1 << p.view.agents.algorithms[i]):
            at = put_challenge(out, at, p, nonce, p.view.agents.algorithms[i], stale)
    out[at] = 0
    respond(p, m, from_, server, 401, b"Unauthorized", <const char*>out)


# --- wrong passwords

cdef uint64_t try_key(const Proxy* p, const Address* source, uint64_t account) noexcept nogil:
    return hash_fold(holder_of(source) ^ p.secret[0], account ^ p.secret[1]) | 1


cdef bint may_try(const Proxy* p, uint64_t key, double rate) noexcept nogil:
    """A source that gave no wrong password lately may; to look is to forget nobody."""
    cdef const Tries* tries = &p.registrar.tries[(key >> 20) & (TRIES - 1)]
    return tries.key != key or tries.left.tokens + (p.now - tries.left.at) * rate / 1e6 >= 1.0


cdef void take_try(Proxy* p, uint64_t key, double rate, double burst) noexcept nogil:
    cdef Tries* tries = &p.registrar.tries[(key >> 20) & (TRIES - 1)]
    if tries.key != key:
        memset(tries, 0, sizeof(Tries))
        tries.key = key
    allow(&tries.left, rate, burst, p.now)


cdef bint is_tried_out(const Proxy* p, const Flow* from_, uint64_t account) noexcept nogil:
    return not (may_try(p, try_key(p, &from_.peer, account), 1.0 / TRY_EVERY)
                and may_try(p, try_key(p, &from_.peer, 0), 1.0))


cdef void count_wrong(Proxy* p, const Flow* from_, uint64_t account) noexcept nogil:
    p.counters[WRONG_PASSWORDS] += 1
    take_try(p, try_key(p, &from_.peer, account), 1.0 / TRY_EVERY, TRIES_OF_USER)
    take_try(p, try_key(p, &from_.peer, 0), 1.0, TRIES_OF_SOURCE)


# --- credentials

cdef bint find_credentials(Proxy* p, const ParsedMessage* m, const Register* r, Credentials* c,
                           bint* sound) noexcept nogil:
    """The credentials for our realm; False: there are none. *sound* is False when a line breaks the grammar."""
    cdef int i
    cdef const Text* realm = &p.view.agents.realm
    sound[0] = True
    for i in range(m.count):
        if r.field[i] != FIELD_AUTHORIZATION:
            continue
        if not parse_credentials(m.data, header_value(m, i), c):
            sound[0] = False
        elif c.realm.length == realm.length and memcmp(m.data + c.realm.at, realm.text, realm.length) == 0:
            return True
    return False


cdef bint is_users_own(const ParsedMessage* m, const Register* r, const Credentials* c) noexcept nogil:
    """Who authenticates as "bob" or "bob@domain" may change bob's bindings and nobody else's (section 10.3 step 4)."""
    cdef uint32_t length = r.user_length if c.username.length == r.user_length else r.aor_length
    return not c.has_escapes and c.username.length == length and memcmp(m.data + c.username.at, r.aor, length) == 0


cdef uint64_t realm_key(const Proxy* p, const uint8_t* user, uint32_t length) noexcept nogil:
    return account_key(&p.accounts, user, length, <const uint8_t*>p.view.agents.realm.text, p.view.agents.realm.length)


cdef bint is_right(const ParsedMessage* m, const Credentials* c, const Account* account) noexcept nogil:
    """The same work whether the user exists or not: nobody learns which names there are."""
    cdef uint8_t nobody[32]
    cdef const uint8_t* ha1 = nobody
    cdef bint known = account != NULL and account.has & (1 << c.algorithm)
    memset(nobody, 0, sizeof(nobody))
    if known:
        ha1 = account_ha1(account, c.algorithm)
    return verify(c, m.data, ha1, m.data + m.method_name.at, m.method_name.length) and known


cdef Verdict authenticate(Proxy* p, const ParsedMessage* m, const Flow* from_, Register* r, uint32_t server, bint asked,
                          uint64_t* name, Span* user) noexcept nogil:
    """Whether a REGISTER is by whom it is for. *asked*: his digests were asked for and have come.

    *name* and *user* are set for ASK_FIRST: whose digests are needed.
    """
    cdef Credentials c
    cdef Nonce nonce
    cdef Account* account
    cdef bint sound = True, complete = asked or p.view.agents.credentials_complete
    cdef int state, use
    if not find_credentials(p, m, r, &c, &sound):
        if sound:
            challenge(p, m, from_, server, find_account(&p.accounts, realm_key(p, r.aor, r.user_length)), False)
        else:
            p.counters[MALFORMED_REQUESTS] += 1
            respond(p, m, from_, server, 400, b"Bad Authorization", NULL)
        return ANSWERED
    user[0] = c.username
    name[0] = realm_key(p, m.data + c.username.at, c.username.length)
    if is_tried_out(p, from_, name[0]):
        p.counters[TRIES_REFUSED] += 1
        respond(p, m, from_, server, 403, b"Too Many Wrong Passwords", b"Retry-After: 60\r\n")
        return ANSWERED
    account = find_account(&p.accounts, name[0])
    state = check_nonce(&p.keys, m.data, c.nonce, wall_seconds(p), NONCE_LIFETIME, holder_of(&from_.peer), &nonce)
    if state != NONCE_GOOD or c.algorithm < 0:
        # Stale whatever is wrong with it: a phone that moved, or comes from another platform, has its password right.
        challenge(p, m, from_, server, account, state != NONCE_GOOD)
        return ANSWERED
    if not complete and (account == NULL or account.good_until < p.now):
        return ASK_FIRST
    if not offered(p, account) & (1 << c.algorithm):
        challenge(p, m, from_, server, account, False)  # no password was wrong: it answered what nobody asked
        return ANSWERED
    if not is_right(m, &c, account):
        if account != NULL and not complete:
            return ASK_FIRST  # the password may have been changed
        count_wrong(p, from_, name[0])
        challenge(p, m, from_, server, account, False)
        return ANSWERED
    if not is_users_own(m, r, &c):
        respond(p, m, from_, server, 403, b"Not Your Address Of Record", NULL)
        return ANSWERED
    use = use_nonce(account, <uint64_t>nonce.seconds << 32 | nonce.salt, max(c.nonce_count, 1))
    if use == NONCE_USED:
        return REPLAYED
    if use != NONCE_FRESH:
        challenge(p, m, from_, server, account, True)
        return ANSWERED
    if c.nonce_count <= 1:
        r.rtt = round_trip(p, &nonce)
    return ALLOWED


cdef uint32_t round_trip(const Proxy* p, const Nonce* nonce) noexcept nogil:
    """From the challenge to its answer, microseconds; 0 when somebody was asked for a password meanwhile."""
    cdef int64_t since = p.now + p.view.wall - <int64_t>nonce.seconds * 1000000 - <int64_t>(nonce.salt >> 22) * 1000
    return <uint32_t>since if 0 < since < 5000000 else 0
