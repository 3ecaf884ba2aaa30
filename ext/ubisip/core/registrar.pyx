# SPDX-License-Identifier: Apache-2.0
"""The registrar (RFC 3261 section 10.3, RFC 3327, RFC 5626): who may register, and what a REGISTER makes of his bindings.

A REGISTER is answered without a transaction where nobody has to be waited for: to answer it twice does what once does.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from libc.time cimport time_t, tm

from ubisip.core.accounts cimport (
    NONCE_FRESH, NONCE_USED, Account, account_key, find_account, put_account, remove_account, use_nonce,
)
from ubisip.core.address cimport Address, Flow, parse_ip, same_ip, write_number
from ubisip.core.bindings cimport (
    BY_CONTACT, DEAD_FLOW, END_EXPIRED, END_FLOW_LOST, END_UNREGISTERED, GONE, MAX_AOR, MAX_CALL_ID,
    MAX_CONTACT, MAX_INSTANCE, MAX_PATH, MAX_USER_AGENT, OUTBOUND_BINDING, TEXT_CALL_ID, TEXT_CONTACT,
    TEXT_INSTANCE, TEXT_PARTS, TEXT_PATH, TEXT_USER_AGENT, Binding, Wanted, add_binding, agent_hash, aor_hash,
    binding_text, bindings_lock, bindings_unlock, contact_hash, expire_at, find_flow, first_binding, next_binding,
    next_of_flow, note_binding, note_end, remove_binding, rewrite_binding,
)
from ubisip.core.context cimport create_server, is_scarce
from ubisip.core.digest cimport (
    ALGORITHM_MD5, ALGORITHM_SHA256, ALGORITHM_SHA512_256, ALGORITHMS, NONCE_GOOD, NONCE_LENGTH, NONCE_STALE,
    Credentials, Nonce, check_nonce, digest_size, parse_credentials, verify, write_nonce,
)
from ubisip.core.events cimport EVENT_CREDENTIALS, emit
from ubisip.core.headers cimport NameAddr, parse_name_addr, read_parameter
from ubisip.core.message cimport (
    HEADER_OTHER, METHOD_REGISTER, ParsedMessage, header_value, parse_message,
)
from ubisip.core.mirror cimport mirror_binding, wait_for_mirror
from ubisip.core.proxy cimport (
    BOUND_BINDINGS, CHALLENGED, EXPIRED, FLOWS_LOST, MALFORMED_REQUESTS, PARKED_REGISTERS, REFRESHED, REGISTERED,
    REPLAYS, SHED_REGISTERS, TRIES, TRIES_REFUSED, UNREGISTERED, WRONG_PASSWORDS, ParkedRegister, Proxy, Tries,
)
from ubisip.core.reply cimport answer, answer_kept, answer_transaction
from ubisip.core.snapshot cimport MIRROR_OFF, Text, is_domain, is_own
from ubisip.core.span cimport Cursor, Span, cursor, find_octet, fold, same_name, skip_lws, span_of, take, take_number
from ubisip.core.syntax cimport HEX_VALUE
from ubisip.core.targets cimport RateLimit, allow
from ubisip.core.timers cimport wheel_pop
from ubisip.core.transactions cimport (
    WANTS_CREDENTIALS, Transaction, destroy, handle_of, index_of, schedule,
)
from ubisip.core.uri cimport SCHEME_SIP, SCHEME_SIPS, Uri, parse_uri

cdef extern from "time.h" nogil:
    tm* gmtime_r(const time_t* seconds, tm* out) noexcept


cdef enum:
    NONCE_LIFETIME = 600     # seconds: a phone that registers anew within it need not be challenged again
    MAX_WANTED = 64          # contacts in one REGISTER
    TRIES_OF_USER = 10       # wrong passwords for one user from one address before it has to wait,
    TRY_EVERY = 6            # seconds for one more
    TRIES_OF_SOURCE = 200    # the same for all users from one address, behind which an office may stand
    CREDENTIALS_LIMIT = 3000000  # microseconds a REGISTER waits for its agent's digests
    EXPIRES_MOST = 0x7FFFFFFF
    REPLY_ROOM = 60000       # octets of the lines in an answer
    FLOW_TIMER = 120         # seconds between the keep-alives that a phone should send (RFC 5626 section 4.4)
    EXPIRED_A_TURN = 256     # bindings, so that thousands that expire together do not stop the calls


# --- the header fields that only a registrar reads

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
    bint lacks_path_support  # a Path, and a phone that says nothing of it
    uint32_t rtt
    bint replayed            # with a nonce count seen before: it may only repeat what it did
    Wanted wanted[MAX_WANTED]
    int count
    bint star
    uint8_t path[MAX_PATH]
    uint32_t path_length
    Span user_agent
    Flow flow


cdef int field_of(const uint8_t* data, Span name) noexcept nogil:
    cdef uint8_t first = fold(data[name.at])
    if name.length == 1:
        return FIELD_CONTACT if first == 0x6D else (FIELD_SUPPORTED if first == 0x6B else FIELD_OTHER)
    if first == 0x63 and same_name(data, name, b"contact", 7):
        return FIELD_CONTACT
    if first == 0x65 and same_name(data, name, b"expires", 7):
        return FIELD_EXPIRES
    if first == 0x61 and same_name(data, name, b"authorization", 13):
        return FIELD_AUTHORIZATION
    if first == 0x72 and same_name(data, name, b"require", 7):
        return FIELD_REQUIRE
    if first == 0x73 and same_name(data, name, b"supported", 9):
        return FIELD_SUPPORTED
    if first == 0x70 and same_name(data, name, b"path", 4):
        return FIELD_PATH
    if first == 0x75 and same_name(data, name, b"user-agent", 10):
        return FIELD_USER_AGENT
    return FIELD_OTHER


cdef void name_fields(const ParsedMessage* m, Register* r) noexcept nogil:
    cdef int i
    for i in range(m.count):
        r.field[i] = <uint8_t>field_of(m.data, span_of(m.headers[i].line, m.headers[i].line + m.headers[i].name_length)) \
            if m.headers[i].id == HEADER_OTHER else FIELD_OTHER


cdef bint has_tag(const ParsedMessage* m, const Register* r, int field, const char* tag, uint32_t length) noexcept nogil:
    """An option tag is among those of a header field."""
    cdef int i
    cdef uint32_t at, end, next
    for i in range(m.count):
        if r.field[i] != field:
            continue
        at = m.headers[i].value
        end = at + m.headers[i].value_length
        while at < end:
            next = find_octet(m.data, at, end, 0x2C)
            if same_name(m.data, trimmed(m.data, at, next), tag, length):
                return True
            at = next + 1
    return False


cdef Span trimmed(const uint8_t* data, uint32_t at, uint32_t end) noexcept nogil:
    while at < end and (data[at] == 0x20 or data[at] == 0x09):
        at += 1
    while end > at and (data[end - 1] == 0x20 or data[end - 1] == 0x09):
        end -= 1
    return span_of(at, end)


cdef uint32_t put(uint8_t* out, uint32_t at, const char* text, uint32_t length) noexcept nogil:
    memcpy(out + at, text, length)
    return at + length


cdef bint refuse_extensions(const ParsedMessage* m, const Register* r, uint8_t* out) noexcept nogil:
    """An Unsupported line of the tags in Require that a registrar like this does not know; False: there is none."""
    cdef int i
    cdef uint32_t at, end, next, n = put(out, 0, b"Unsupported: ", 13)
    cdef Span tag
    for i in range(m.count):
        if r.field[i] != FIELD_REQUIRE:
            continue
        at = m.headers[i].value
        end = at + m.headers[i].value_length
        while at < end:
            next = find_octet(m.data, at, end, 0x2C)
            tag = trimmed(m.data, at, next)
            if tag.length and n + tag.length < 1000 and not same_name(m.data, tag, b"path", 4) and \
                    not same_name(m.data, tag, b"outbound", 8):
                if n > 13:
                    n = put(out, n, b", ", 2)
                n = put(out, n, <const char*>(m.data + tag.at), tag.length)
            at = next + 1
    put(out, n, b"\r\n\0", 3)
    return n > 13


# --- whose REGISTER it is

cdef bint names_us(const Proxy* p, const uint8_t* data, const Uri* uri) noexcept nogil:
    return is_domain(p.view, data, uri.host) or is_own(p.view, data, uri)


cdef bint is_for_registrar(const Proxy* p, const ParsedMessage* m) noexcept nogil:
    return p.view.agents.enabled and m.method == METHOD_REGISTER and names_us(p, m.data, &m.request_uri)


cdef bint canonical_aor(const Proxy* p, const uint8_t* data, Span uri, uint8_t* out, uint32_t* length,
                        uint32_t* user_length) noexcept nogil:
    """An address of record as its key (section 10.3 step 5): escapes undone, parameters dropped, domain in lower case.

    False: it is of no domain of ours. *out* has room for MAX_AOR octets.
    """
    cdef Uri parsed
    cdef uint32_t at, end, n = 0, i
    cdef uint8_t octet
    cdef const Text* domain = &p.view.agents.domains[0]
    if not parse_uri(data, uri, &parsed) or (parsed.scheme != SCHEME_SIP and parsed.scheme != SCHEME_SIPS):
        return False
    if not is_domain(p.view, data, parsed.host):
        if not is_own(p.view, data, &parsed):
            return False
    else:
        domain = NULL
    at = parsed.user.at
    end = at + parsed.user.length
    while at < end and n < MAX_AOR - 1:
        octet = data[at]
        if octet == 0x25 and end - at > 2 and HEX_VALUE[data[at + 1]] < 16 and HEX_VALUE[data[at + 2]] < 16:
            octet = <uint8_t>(HEX_VALUE[data[at + 1]] << 4 | HEX_VALUE[data[at + 2]])
            at += 2
        out[n] = octet
        n += 1
        at += 1
    if at < end or n == 0:
        return False
    user_length[0] = n
    out[n] = 0x40
    n += 1
    if n + (domain.length if domain != NULL else parsed.host.length) > MAX_AOR:
        return False
    if domain != NULL:
        n = put(out, n, domain.text, domain.length)
    else:
        for i in range(parsed.host.length):
            out[n + i] = fold(data[parsed.host.at + i])
        n += parsed.host.length
    length[0] = n
    return True


# --- answers

cdef void respond(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, int status, const char* reason,
                  const char* extra) noexcept nogil:
    """Answer through the server transaction if there is one."""
    if server:
        answer_kept(p, server, m, status, reason, extra)
    else:
        answer(p, m, from_, status, reason, extra)


cdef uint32_t next_salt(Proxy* p) noexcept nogil:
    """22 bits that differ from nonce to nonce, and the milliseconds of its time: the phone's round trip is told by it."""
    p.registrar.salt = p.registrar.salt * 1664525 + 1013904223
    return (p.registrar.salt & ~<uint32_t>1023) | <uint32_t>((p.now + p.view.wall) // 1000 % 1000)


cdef uint32_t wall_seconds(const Proxy* p) noexcept nogil:
    return <uint32_t>((p.now + p.view.wall) // 1000000)


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


cdef void challenge(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, const Account* account,
                    bint stale) noexcept nogil:
    """401 with what this agent can be authenticated by, the strongest first (RFC 8760 section 2.3)."""
    cdef char nonce[NONCE_LENGTH]
    cdef uint8_t out[2048]
    cdef uint32_t at = 0
    cdef int has = account.has if account != NULL else p.registrar.algorithms
    write_nonce(&p.keys, wall_seconds(p), next_salt(p), nonce)
    if has & (1 << ALGORITHM_SHA256):
        at = put_challenge(out, at, p, nonce, ALGORITHM_SHA256, stale)
    if has & (1 << ALGORITHM_SHA512_256):
        at = put_challenge(out, at, p, nonce, ALGORITHM_SHA512_256, stale)
    if has & (1 << ALGORITHM_MD5):
        at = put_challenge(out, at, p, nonce, ALGORITHM_MD5, stale)
    out[at] = 0
    respond(p, m, from_, server, 401, b"Unauthorized", <const char*>out)


cdef void come_back(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, uint32_t least,
                    uint32_t spread) noexcept nogil:
    """503 with a Retry-After spread at random, so that those who come back do not all come at once."""
    cdef uint8_t out[64]
    cdef uint32_t at = put(out, 0, b"Retry-After: ", 13)
    at += write_number(least + next_salt(p) // 1024 % spread, <char*>out + at)
    put(out, at, b"\r\n\0", 3)
    p.counters[SHED_REGISTERS] += 1
    respond(p, m, from_, server, 503, b"Service Unavailable", <const char*>out)


# --- authentication (RFC 3261 section 22, RFC 8760)

cdef uint64_t try_key(const Proxy* p, const Address* source, uint64_t account) noexcept nogil:
    cdef uint64_t low, high
    memcpy(&low, source.ip, 8)
    memcpy(&high, source.ip + 8, 8)
    return ((low ^ p.secret[0]) * <uint64_t>0x9E3779B97F4A7C15 ^ (high + account)) * <uint64_t>0xE7037ED1A0B428DB | 1


cdef RateLimit* tries_left(Proxy* p, uint64_t key) noexcept nogil:
    """What a source may still try; one that was not seen lately starts anew."""
    cdef Tries* tries = &p.registrar.tries[(key >> 20) & (TRIES - 1)]
    if tries.key != key:
        memset(tries, 0, sizeof(Tries))
        tries.key = key
    return &tries.left


cdef bint may_try(const RateLimit* left, double rate, int64_t now) noexcept nogil:
    return left.at == 0 or left.tokens + (now - left.at) * rate / 1e6 >= 1.0


cdef bint is_tried_out(Proxy* p, const Flow* from_, uint64_t account) noexcept nogil:
    return not (may_try(tries_left(p, try_key(p, &from_.peer, account)), 1.0 / TRY_EVERY, p.now)
                and may_try(tries_left(p, try_key(p, &from_.peer, 0)), 1.0, p.now))


cdef void count_wrong(Proxy* p, const Flow* from_, uint64_t account) noexcept nogil:
    p.counters[WRONG_PASSWORDS] += 1
    allow(tries_left(p, try_key(p, &from_.peer, account)), 1.0 / TRY_EVERY, TRIES_OF_USER, p.now)
    allow(tries_left(p, try_key(p, &from_.peer, 0)), 1.0, TRIES_OF_SOURCE, p.now)


cdef bint find_credentials(Proxy* p, const ParsedMessage* m, const Register* r, Credentials* c, bint* sound) noexcept nogil:
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


cdef bint authenticate(Proxy* p, const ParsedMessage* m, const Flow* from_, Register* r, uint32_t server, bint asked,
                       int peer, const uint64_t* key) noexcept nogil:
    """False: it was answered, or waits for the digests of its agent. *asked*: these were asked for and have come."""
    cdef Credentials c
    cdef Nonce nonce
    cdef Account* account
    cdef uint64_t name
    cdef bint sound = True, right
    cdef int state, use
    cdef uint8_t nobody[32]
    if not find_credentials(p, m, r, &c, &sound):
        if not sound:
            p.counters[MALFORMED_REQUESTS] += 1
            respond(p, m, from_, server, 400, b"Bad Authorization", NULL)
            return False
        p.counters[CHALLENGED] += 1
        name = account_key(&p.accounts, r.aor, r.user_length, <const uint8_t*>p.view.agents.realm.text,
                           p.view.agents.realm.length)
        challenge(p, m, from_, server, find_account(&p.accounts, name), False)
        return False
    name = account_key(&p.accounts, m.data + c.username.at, c.username.length,
                       <const uint8_t*>p.view.agents.realm.text, p.view.agents.realm.length)
    if is_tried_out(p, from_, name):
        p.counters[TRIES_REFUSED] += 1
        respond(p, m, from_, server, 403, b"Too Many Wrong Passwords", b"Retry-After: 60\r\n")
        return False
    account = find_account(&p.accounts, name)
    state = check_nonce(&p.keys, m.data, c.nonce, wall_seconds(p), NONCE_LIFETIME, &nonce)
    if state != NONCE_GOOD or c.algorithm < 0:
        p.counters[CHALLENGED] += 1
        challenge(p, m, from_, server, account, state == NONCE_STALE)
        return False
    if (account == NULL or account.good_until < p.now) and not asked and not p.view.agents.credentials_complete:
        ask_credentials(p, m, from_, server, name, &c, peer, key)
        return False
    memset(nobody, 0, sizeof(nobody))
    if account == NULL or not account.has & (1 << c.algorithm):
        # The same work and the same answer as for a wrong password: nobody learns which names exist.
        verify(&c, m.data, nobody, m.data + m.method_name.at, m.method_name.length)
        right = False
    else:
        right = verify(&c, m.data, account.ha1[c.algorithm], m.data + m.method_name.at, m.method_name.length)
    if not right:
        if account != NULL and not asked and not p.view.agents.credentials_complete:
            ask_credentials(p, m, from_, server, name, &c, peer, key)  # the password may have been changed
            return False
        count_wrong(p, from_, name)
        challenge(p, m, from_, server, account, False)
        return False
    if not is_users_own(m, r, &c):
        respond(p, m, from_, server, 403, b"Not Your Address Of Record", NULL)
        return False
    use = use_nonce(account, nonce.salt, nonce.seconds, max(c.nonce_count, 1))
    r.replayed = use == NONCE_USED
    if use != NONCE_FRESH and not (r.replayed and is_repeated(p, m, r)):
        p.counters[REPLAYS] += 1
        challenge(p, m, from_, server, account, True)
        return False
    if c.nonce_count <= 1 and use == NONCE_FRESH:
        r.rtt = round_trip(p, &nonce)
    return True


cdef uint32_t round_trip(const Proxy* p, const Nonce* nonce) noexcept nogil:
    """From the challenge to its answer, microseconds; 0 when somebody was asked for a password meanwhile."""
    cdef int64_t since = p.now + p.view.wall - <int64_t>nonce.seconds * 1000000 - <int64_t>(nonce.salt & 1023) * 1000
    return <uint32_t>since if 0 < since < 5000000 else 0


cdef bint is_repeated(Proxy* p, const ParsedMessage* m, const Register* r) noexcept nogil:
    """The same REGISTER made a binding already: its answer got lost."""
    cdef uint32_t index = first_binding(&p.bindings, r.hash, r.aor, r.aor_length)
    while index:
        if p.bindings.slab[index].cseq == m.cseq and same_call(&p.bindings.slab[index], m):
            return True
        index = next_binding(&p.bindings, index)
    return False


# --- digests that are asked for

cdef void ask_credentials(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, uint64_t account,
                          const Credentials* c, int peer, const uint64_t* key) noexcept nogil:
    """Park the REGISTER until the control thread has told the digests of its user."""
    cdef uint8_t name[1024]
    cdef ParkedRegister* free_place = NULL
    cdef bint is_asked = False
    cdef Transaction* t
    cdef uint32_t at
    cdef int i
    for i in range(PARKED_REGISTERS):
        if p.registrar.parked[i].handle == 0:
            free_place = &p.registrar.parked[i]
        elif p.registrar.parked[i].account == account:
            is_asked = True
    if free_place == NULL or c.username.length > 512 or is_scarce(p):
        come_back(p, m, from_, server, 5, 30)
        return
    if server == 0:
        server = create_server(p, m, from_, peer, key, 0)
        if server == 0:
            return
    t = &p.transactions.slab[server]
    t.flags |= WANTS_CREDENTIALS
    t.give_up_at = p.now + CREDENTIALS_LIMIT
    schedule(&p.transactions, server)
    free_place.handle = handle_of(&p.transactions, server)
    free_place.account = account
    free_place.source = from_[0]
    if is_asked:
        return
    at = put(name, 0, <const char*>(m.data + c.username.at), c.username.length)
    name[at] = 0
    at = put(name, at + 1, p.view.agents.realm.text, p.view.agents.realm.length)
    emit(&p.events, EVENT_CREDENTIALS, p.now, -1, 0, handle_of(&p.transactions, server), 0, name, at)


cdef void go_on(Proxy* p, uint64_t account, bint found) noexcept nogil:
    """Those who waited for an account go on; without it they are told to come back."""
    cdef ParkedRegister* parked
    cdef Transaction* t
    cdef uint32_t server
    cdef int i
    for i in range(PARKED_REGISTERS):
        parked = &p.registrar.parked[i]
        if parked.handle == 0 or parked.account != account:
            continue
        server = index_of(&p.transactions, parked.handle)
        parked.handle = 0
        if server == 0 or not p.transactions.slab[server].flags & WANTS_CREDENTIALS:
            continue
        t = &p.transactions.slab[server]
        t.flags &= <uint16_t>~<uint16_t>WANTS_CREDENTIALS
        t.give_up_at = 0
        if t.request == NULL or not parse_message(&p.message, t.request.data, t.request.size):
            continue
        if found:
            register_agent(p, &p.message, &parked.source, server, True, t.slot, NULL)
        else:
            come_back(p, &p.message, &parked.source, server, 5, 30)


cdef uint64_t named_account(const Proxy* p, const uint8_t* data, uint32_t user_length,
                            uint32_t realm_length) noexcept nogil:
    return account_key(&p.accounts, data, user_length, data + user_length, realm_length)


cdef void credentials_known(Proxy* p, const uint8_t* data, uint32_t user_length, uint32_t realm_length,
                            const uint8_t* digests, int has, int64_t lifetime) noexcept nogil:
    """The digests of a user, 32 octets for each algorithm in *has*; without any he does not exist.

    *data* is his name, then the realm; *lifetime* in microseconds, 0: for ever.
    """
    cdef uint64_t key = named_account(p, data, user_length, realm_length)
    cdef Account* account
    if has == 0:
        remove_account(&p.accounts, key)
    else:
        account = put_account(&p.accounts, key)
        if account != NULL:
            account.has = <uint8_t>has
            memcpy(account.ha1, digests, sizeof(account.ha1))
            account.good_until = p.now + lifetime if lifetime else <int64_t>0x7FFFFFFFFFFFFFFF
            p.registrar.algorithms &= <uint8_t>has
    go_on(p, key, True)


cdef void credentials_failed(Proxy* p, const uint8_t* data, uint32_t user_length, uint32_t realm_length) noexcept nogil:
    """Nobody could be asked."""
    go_on(p, named_account(p, data, user_length, realm_length), False)


cdef void credentials_late(Proxy* p, uint32_t server) noexcept nogil:
    """The digests did not come in time."""
    cdef int64_t handle = handle_of(&p.transactions, server)
    cdef Transaction* t = &p.transactions.slab[server]
    cdef int i
    t.flags &= <uint16_t>~<uint16_t>WANTS_CREDENTIALS
    for i in range(PARKED_REGISTERS):
        if p.registrar.parked[i].handle == handle:
            p.registrar.parked[i].handle = 0
    p.counters[SHED_REGISTERS] += 1
    answer_transaction(p, server, 503, b"Service Unavailable", b"Retry-After: 10\r\n")


# --- contacts

cdef bint read_contact(const ParsedMessage* m, const NameAddr* value, Wanted* out) noexcept nogil:
    """One Contact value with its parameters; False: what it says cannot be kept."""
    cdef Cursor c = cursor(m.data, span_of(value.uri.at + value.uri.length, value.value.at + value.value.length))
    cdef Span name, parameter
    cdef Uri uri
    cdef uint64_t number = 0
    memset(out, 0, sizeof(Wanted))
    out.contact = value.uri
    out.expires = -1
    out.q = 1000
    if value.uri.length > MAX_CONTACT or not parse_uri(m.data, value.uri, &uri) or uri.host.length == 0:
        return False
    out.key = contact_hash(m.data, value.uri)
    skip_lws(&c)
    take(&c, 0x3E)
    skip_lws(&c)
    while take(&c, 0x3B):
        if not read_parameter(&c, &name, &parameter):
            return False
        if same_name(m.data, name, b"expires", 7):
            out.expires = read_seconds(m.data, parameter)
        elif same_name(m.data, name, b"q", 1):
            out.q = read_q(m.data, parameter)
        elif same_name(m.data, name, b"reg-id", 6):
            if read_seconds(m.data, parameter) > 0:
                out.reg_id = <uint32_t>min(read_seconds(m.data, parameter), 0xFFFF)
        elif same_name(m.data, name, b"+sip.instance", 13) and parameter.length > 2:
            if parameter.length - 2 > MAX_INSTANCE:
                return False
            out.instance = span_of(parameter.at + 1, parameter.at + parameter.length - 1)
    return True


cdef int64_t read_seconds(const uint8_t* data, Span value) noexcept nogil:
    """delta-seconds; -1 when it is none: then the default holds (RFC 3261 section 20.19)."""
    cdef Cursor c = cursor(data, value)
    cdef uint64_t number = 0
    if take_number(&c, EXPIRES_MOST, &number) and c.at == c.end:
        return <int64_t>number
    while c.at < c.end and 0x30 <= data[c.at] <= 0x39:
        c.at += 1
    return EXPIRES_MOST if value.length and c.at == c.end else -1


cdef uint16_t read_q(const uint8_t* data, Span value) noexcept nogil:
    """qvalue in thousandths."""
    cdef uint32_t i, q = 0, unit = 1000
    for i in range(value.at, value.at + min(value.length, 5)):
        if 0x30 <= data[i] <= 0x39:
            q += (data[i] - 0x30) * unit
            unit //= 10
    return <uint16_t>min(q, 1000)


cdef bint read_contacts(const ParsedMessage* m, Register* r) noexcept nogil:
    cdef int i
    cdef uint32_t at, end
    cdef NameAddr value
    for i in range(m.count):
        if r.field[i] != FIELD_CONTACT:
            continue
        at = m.headers[i].value
        end = at + m.headers[i].value_length
        if m.headers[i].value_length == 1 and m.data[at] == 0x2A:
            if r.star:
                return False
            r.star = True
            continue
        while at:
            if r.count == MAX_WANTED or not parse_name_addr(m.data, span_of(at, end), True, &value) or \
                    not read_contact(m, &value, &r.wanted[r.count]):
                return False
            r.count += 1
            at = value.next
    return not (r.star and r.count)


cdef int64_t header_expires(const ParsedMessage* m, const Register* r) noexcept nogil:
    cdef int i
    for i in range(m.count):
        if r.field[i] == FIELD_EXPIRES:
            return read_seconds(m.data, header_value(m, i))
    return -1


cdef bint read_path(const ParsedMessage* m, Register* r) noexcept nogil:
    """The Path values, joined (RFC 3327 section 5.3); False: they are too long."""
    cdef int i
    cdef Span value
    for i in range(m.count):
        if r.field[i] != FIELD_PATH:
            continue
        value = header_value(m, i)
        if r.path_length + value.length + 1 > MAX_PATH:
            return False
        if r.path_length:
            r.path[r.path_length] = 0x2C
            r.path_length += 1
        r.path_length = put(r.path, r.path_length, <const char*>(m.data + value.at), value.length)
    return True


cdef bint first_hop_is_outbound(const Register* r) noexcept nogil:
    """The first Path URI has the parameter ob (RFC 5626 section 6)."""
    cdef NameAddr value
    cdef uint32_t i
    cdef uint8_t text[MAX_PATH + 64]
    memset(text, 0, sizeof(text))
    memcpy(text, r.path, r.path_length)
    if not parse_name_addr(text, span_of(0, r.path_length), True, &value):
        return False
    for i in range(value.uri.at, value.uri.at + value.uri.length - 2):
        if memcmp(text + i, b";ob", 3) == 0 and (i + 3 == value.uri.at + value.uri.length or text[i + 3] == 0x3B):
            return True
    return False


cdef bint goes_by_contact(const ParsedMessage* m, const Flow* from_, const Wanted* wanted, bint has_path) noexcept nogil:
    """Whether requests go to the Contact's own address: when it is another than that which the REGISTER came from, and
    no address translation stands between (the Via says the truth about its source)."""
    cdef Address via, contact
    cdef Uri uri
    if has_path or wanted.reg_id or not parse_uri(m.data, wanted.contact, &uri):
        return False
    if not parse_ip(m.data, uri.host, &contact) or not parse_ip(m.data, m.via.host, &via):
        return False
    contact.port = uri.port if uri.port else 5060
    if not same_ip(&via, &from_.peer):
        return False
    if from_.stream:
        return not same_ip(&contact, &from_.peer)
    return (m.via.port if m.via.port else 5060) == from_.peer.port and \
        not (same_ip(&contact, &from_.peer) and contact.port == from_.peer.port)


# --- what it makes of the bindings

cdef bint same_call(const Binding* b, const ParsedMessage* m) noexcept nogil:
    cdef uint32_t length
    cdef const uint8_t* text = binding_text(b, TEXT_CALL_ID, &length)
    return length == m.call_id.length and memcmp(text, m.data + m.call_id.at, length) == 0


cdef bint same_instance(const Binding* b, const ParsedMessage* m, const Wanted* wanted) noexcept nogil:
    cdef uint32_t length
    cdef const uint8_t* text = binding_text(b, TEXT_INSTANCE, &length)
    return length == wanted.instance.length and memcmp(text, m.data + wanted.instance.at, length) == 0


cdef uint32_t find_wanted(Proxy* p, const ParsedMessage* m, const Register* r, const Wanted* wanted) noexcept nogil:
    """The binding that a contact stands for: of its instance and reg-id (RFC 5626 section 6), else of its URI."""
    cdef uint32_t index = first_binding(&p.bindings, r.hash, r.aor, r.aor_length)
    cdef const Binding* b
    while index:
        b = &p.bindings.slab[index]
        if wanted.reg_id and wanted.instance.length and r.outbound:
            if b.reg_id == wanted.reg_id and same_instance(b, m, wanted):
                return index
        elif b.contact == wanted.key and b.reg_id == 0:
            return index
        index = next_binding(&p.bindings, index)
    return 0


cdef int check_order(Proxy* p, const ParsedMessage* m, const Register* r, uint32_t index) noexcept nogil:
    """Step 7: a REGISTER of the same call must have a higher CSeq. 0: go on; 1: it is the same again; -1: too late."""
    cdef const Binding* b = &p.bindings.slab[index]
    if b.flags & GONE:
        return 0 if not same_call(b, m) or m.cseq > b.cseq else -1
    if not same_call(b, m):
        return 0
    return 0 if m.cseq > b.cseq else (1 if m.cseq == b.cseq else -1)


cdef uint32_t live_bindings(const Proxy* p, const Register* r) noexcept nogil:
    cdef uint32_t index = first_binding(&p.bindings, r.hash, r.aor, r.aor_length), count = 0
    while index:
        count += not p.bindings.slab[index].flags & GONE
        index = next_binding(&p.bindings, index)
    return count


cdef void store(Proxy* p, const ParsedMessage* m, const Register* r, const Wanted* wanted, uint32_t index) noexcept nogil:
    """Make or refresh one binding. The lock is held; 0 is a new one, for which there is room."""
    cdef const uint8_t* parts[6]
    cdef uint32_t lengths[6]
    cdef bint is_new = index == 0
    cdef Binding* b
    cdef uint64_t agent = agent_hash(r.hash, m.data, wanted.instance, wanted.key)
    parts[TEXT_CONTACT] = m.data + wanted.contact.at
    lengths[TEXT_CONTACT] = wanted.contact.length
    parts[TEXT_INSTANCE] = m.data + wanted.instance.at
    lengths[TEXT_INSTANCE] = wanted.instance.length
    parts[TEXT_PATH] = r.path
    lengths[TEXT_PATH] = r.path_length
    parts[TEXT_CALL_ID] = m.data + m.call_id.at
    lengths[TEXT_CALL_ID] = min(m.call_id.length, MAX_CALL_ID)
    parts[TEXT_USER_AGENT] = m.data + r.user_agent.at
    lengths[TEXT_USER_AGENT] = min(r.user_agent.length, MAX_USER_AGENT)
    if is_new:
        index = add_binding(&p.bindings, r.aor, r.aor_length, parts, lengths, wanted.key, agent, &r.flow)
        if index == 0:
            p.counters[BOUND_BINDINGS] += 1
            return
    elif not rewrite_binding(&p.bindings, index, parts, lengths, wanted.key, &r.flow):
        return
    b = &p.bindings.slab[index]
    if b.flags & GONE:
        p.bindings.gone -= 1
        is_new = True
    b.flags = 0
    if wanted.reg_id and r.outbound:
        b.flags |= OUTBOUND_BINDING
        b.reg_id = wanted.reg_id
    if goes_by_contact(m, &r.flow, wanted, r.path_length != 0):
        b.flags |= BY_CONTACT
    b.q = wanted.q
    b.cseq = m.cseq
    if r.rtt:
        b.rtt = r.rtt
    b.refreshed_at = p.now
    b.version += 1
    memset(b.in_step, 0, sizeof(b.in_step))
    expire_at(&p.bindings, index, p.now + wanted.expires * 1000000)
    p.counters[REGISTERED if is_new else REFRESHED] += 1
    note_binding(&p.bindings, index, is_new, p.now)


cdef void end_binding(Proxy* p, uint32_t index, int why) noexcept nogil:
    """One binding ends. The lock is held. Servers that have it are told: until then it is kept, and used no more."""
    cdef Binding* b = &p.bindings.slab[index]
    note_end(&p.bindings, index, why, p.now)
    if p.view.agents.mirror == MIRROR_OFF or why == END_EXPIRED:
        remove_binding(&p.bindings, index)
        return
    if not b.flags & GONE:
        p.bindings.gone += 1
    b.flags |= GONE
    b.version += 1
    memset(b.in_step, 0, sizeof(b.in_step))
    expire_at(&p.bindings, index, min(b.expires_at, p.now + 32000000))


cdef void unregister(Proxy* p, const ParsedMessage* m, uint32_t index) noexcept nogil:
    if not p.bindings.slab[index].flags & GONE:
        p.bindings.slab[index].cseq = m.cseq
        p.counters[UNREGISTERED] += 1
        end_binding(p, index, END_UNREGISTERED)


cdef bint remove_all(Proxy* p, const ParsedMessage* m, Register* r) noexcept nogil:
    """Contact: * (step 6); False: one of the bindings is from a later REGISTER of the same call."""
    cdef uint32_t index = first_binding(&p.bindings, r.hash, r.aor, r.aor_length), next
    while index:
        if check_order(p, m, r, index) != 0:
            return False
        index = next_binding(&p.bindings, index)
    index = first_binding(&p.bindings, r.hash, r.aor, r.aor_length)
    while index:
        next = next_binding(&p.bindings, index)
        unregister(p, m, index)
        index = next
    return True


cdef bint refuse(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, int status, const char* reason,
                 const char* extra) noexcept nogil:
    respond(p, m, from_, server, status, reason, extra)
    return False


cdef bint check_times(Proxy* p, const ParsedMessage* m, const Flow* from_, Register* r, uint32_t server) noexcept nogil:
    """How long each contact is kept (step 7); False: one is too short, and 423 was answered."""
    cdef int64_t all_ = header_expires(m, r)
    cdef uint8_t out[64]
    cdef uint32_t at
    cdef int i
    cdef Wanted* wanted
    for i in range(r.count):
        wanted = &r.wanted[i]
        if wanted.expires < 0:
            wanted.expires = all_ if all_ >= 0 else p.view.agents.default_expires
        # No interval of an hour or more may be called too brief.
        if 0 < wanted.expires < min(<int64_t>p.view.agents.min_expires, 3600):
            at = put(out, 0, b"Min-Expires: ", 13)
            at += write_number(p.view.agents.min_expires, <char*>out + at)
            put(out, at, b"\r\n\0", 3)
            return refuse(p, m, from_, server, 423, b"Interval Too Brief", <const char*>out)
        wanted.expires = min(wanted.expires, p.view.agents.max_expires)
    if r.star and all_ != 0:
        return refuse(p, m, from_, server, 400, b"Bad Contact", NULL)
    return True


cdef bint check_room(Proxy* p, const ParsedMessage* m, const Flow* from_, const Register* r, uint32_t server,
                     uint32_t more) noexcept nogil:
    cdef uint8_t reason[64]
    cdef uint32_t at
    if more and live_bindings(p, r) + more > p.view.agents.max_contacts:
        at = put(reason, 0, b"Too Many Contacts, At Most ", 27)
        at += write_number(p.view.agents.max_contacts, <char*>reason + at)
        reason[at] = 0
        return refuse(p, m, from_, server, 403, <const char*>reason, NULL)
    if p.bindings.used + more > min(p.bindings.capacity, p.view.agents.max_bindings):
        p.counters[BOUND_BINDINGS] += 1
        come_back(p, m, from_, server, 30, 60)
        return False
    return True


cdef bint commit(Proxy* p, const ParsedMessage* m, const Flow* from_, Register* r, uint32_t server) noexcept nogil:
    """Change the bindings, all or none (section 10.3); False: nothing was changed, and the REGISTER was answered."""
    cdef uint32_t indexes[MAX_WANTED]
    cdef uint32_t more = 0
    cdef int i, order, again = 0
    cdef bint sound = True
    for i in range(r.count):
        indexes[i] = find_wanted(p, m, r, &r.wanted[i])
        if indexes[i]:
            order = check_order(p, m, r, indexes[i])
            if order < 0:
                return refuse(p, m, from_, server, 500, b"CSeq Out Of Order", NULL)
            again += order
        elif r.wanted[i].expires:
            more += 1
    if again or r.replayed:
        return True  # the same REGISTER once more: it is answered, and nothing changes
    if not check_room(p, m, from_, r, server, more):
        return False
    bindings_lock(&p.bindings)
    if r.star:
        sound = remove_all(p, m, r)
    for i in range(r.count):
        if r.wanted[i].expires:
            # A contact given twice is one binding: the later one counts.
            store(p, m, r, &r.wanted[i], indexes[i] if indexes[i] else find_wanted(p, m, r, &r.wanted[i]))
        elif indexes[i]:
            unregister(p, m, indexes[i])
    bindings_unlock(&p.bindings)
    return sound or refuse(p, m, from_, server, 500, b"CSeq Out Of Order", NULL)


# --- the 200

cdef uint32_t put_contact(const Proxy* p, const Binding* b, uint8_t* out, uint32_t at) noexcept nogil:
    cdef uint32_t length
    cdef const uint8_t* text = binding_text(b, TEXT_CONTACT, &length)
    at = put(out, at, b"Contact: <", 10)
    at = put(out, at, <const char*>text, length)
    at = put(out, at, b">;expires=", 10)
    at += write_number(<uint32_t>max(0, (b.expires_at - p.now + 999999) // 1000000), <char*>out + at)
    if b.q < 1000:
        at = put(out, at, b";q=0.", 5)
        out[at] = <uint8_t>(0x30 + b.q // 100)
        out[at + 1] = <uint8_t>(0x30 + b.q // 10 % 10)
        out[at + 2] = <uint8_t>(0x30 + b.q % 10)
        at += 3
    text = binding_text(b, TEXT_INSTANCE, &length)
    if length:
        at = put(out, at, b";+sip.instance=\"", 16)
        at = put(out, at, <const char*>text, length)
        at = put(out, at, b"\"", 1)
    if b.reg_id:
        at = put(out, at, b";reg-id=", 8)
        at += write_number(b.reg_id, <char*>out + at)
    return put(out, at, b"\r\n", 2)


cdef uint32_t put_two(uint8_t* out, uint32_t at, int number, char after) noexcept nogil:
    out[at] = <uint8_t>(0x30 + number // 10)
    out[at + 1] = <uint8_t>(0x30 + number % 10)
    out[at + 2] = <uint8_t>after
    return at + 3


cdef const char* DAYS = b"SunMonTueWedThuFriSat"
cdef const char* MONTHS = b"JanFebMarAprMayJunJulAugSepOctNovDec"


cdef uint32_t put_date(const Proxy* p, uint8_t* out, uint32_t at) noexcept nogil:
    """SIP-date (section 20.17)."""
    cdef tm utc
    cdef time_t seconds = <time_t>wall_seconds(p)
    gmtime_r(&seconds, &utc)
    at = put(out, at, b"Date: ", 6)
    at = put(out, at, DAYS + 3 * utc.tm_wday, 3)
    at = put(out, at, b", ", 2)
    at = put_two(out, at, utc.tm_mday, 0x20)
    at = put(out, at, MONTHS + 3 * utc.tm_mon, 3)
    out[at] = 0x20
    at += 1 + write_number(<uint32_t>(utc.tm_year + 1900), <char*>out + at + 1)
    out[at] = 0x20
    at = put_two(out, at + 1, utc.tm_hour, 0x3A)
    at = put_two(out, at, utc.tm_min, 0x3A)
    at = put_two(out, at, utc.tm_sec, 0x20)
    return put(out, at, b"GMT\r\n", 5)


cdef uint32_t put_bindings(Proxy* p, const Register* r, uint8_t* out) noexcept nogil:
    """Every binding of the address of record, Path, Date (steps 8 and 9, RFC 3327 section 5.3, RFC 5626 section 6)."""
    cdef uint32_t index = first_binding(&p.bindings, r.hash, r.aor, r.aor_length), at = 0
    cdef bint outbound = False
    while index and at < REPLY_ROOM - 2048:
        if not p.bindings.slab[index].flags & GONE:
            at = put_contact(p, &p.bindings.slab[index], out, at)
            outbound = outbound or (p.bindings.slab[index].flags & OUTBOUND_BINDING and r.outbound)
        index = next_binding(&p.bindings, index)
    if r.path_length:
        at = put(out, at, b"Path: ", 6)
        at = put(out, at, <const char*>r.path, r.path_length)
        at = put(out, at, b"\r\n", 2)
    if outbound:
        at = put(out, at, b"Require: outbound\r\nFlow-Timer: ", 31)
        at += write_number(FLOW_TIMER, <char*>out + at)
        at = put(out, at, b"\r\n", 2)
    at = put(out, at, b"Supported: path, outbound\r\n", 27)
    at = put_date(p, out, at)
    out[at] = 0
    return at


cdef void accept(Proxy* p, const ParsedMessage* m, const Flow* from_, const Register* r, uint32_t server) noexcept nogil:
    put_bindings(p, r, p.scratch)
    respond(p, m, from_, server, 200, b"OK", <const char*>p.scratch)


# --- the way of a REGISTER

cdef void receive_register(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer,
                           const uint64_t* key) noexcept nogil:
    """A REGISTER for a domain of ours, from whomever."""
    if p.view.draining or p.overloaded or p.crowded:
        come_back(p, m, from_, 0, 5, 30)
        return
    register_agent(p, m, from_, 0, False, peer, key)


cdef void register_agent(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, bint asked, int peer,
                         const uint64_t* key) noexcept nogil:
    """The steps of section 10.3, in their order; *server* is the transaction of one that was parked."""
    cdef Register r
    cdef uint8_t unsupported[1100]
    cdef int i
    # Of this large value only what is read before it is written is cleared.
    r.count = 0
    r.star = r.replayed = False
    r.path_length = r.rtt = 0
    r.user_agent = span_of(0, 0)
    r.flow = from_[0]
    name_fields(m, &r)
    if refuse_extensions(m, &r, unsupported):
        refuse(p, m, from_, server, 420, b"Bad Extension", <const char*>unsupported)
        return
    if not canonical_aor(p, m.data, m.to.uri, r.aor, &r.aor_length, &r.user_length):
        refuse(p, m, from_, server, 404, b"Not A User Here", NULL)
        return
    r.hash = aor_hash(r.aor, r.aor_length)
    if not authenticate(p, m, from_, &r, server, asked, peer, key):
        return
    r.outbound = has_tag(m, &r, FIELD_SUPPORTED, b"outbound", 8)
    for i in range(m.count):
        if r.field[i] == FIELD_USER_AGENT:
            r.user_agent = header_value(m, i)
    if not read_contacts(m, &r):
        refuse(p, m, from_, server, 400, b"Bad Contact", NULL)
        return
    if not read_path(m, &r):
        refuse(p, m, from_, server, 400, b"Bad Path", NULL)
        return
    if r.path_length and r.outbound and r.count and r.wanted[0].reg_id and not first_hop_is_outbound(&r):
        refuse(p, m, from_, server, 439, b"First Hop Lacks Outbound Support", NULL)
        return
    if not check_times(p, m, from_, &r, server):
        return
    if p.view.agents.mirror != MIRROR_OFF and (r.count or r.star) and server == 0 and not r.replayed:
        server = create_server(p, m, from_, peer, key, 0)
        if server == 0:
            return
    if not commit(p, m, from_, &r, server):
        return
    if server and mirror_all(p, &r, server):
        return
    accept(p, m, from_, &r, server)


cdef bint mirror_all(Proxy* p, const Register* r, uint32_t server) noexcept nogil:
    """Tell the servers of every binding that changed; True: the answer waits for enough of them (DESIGN section 8)."""
    cdef uint32_t index = first_binding(&p.bindings, r.hash, r.aor, r.aor_length), next
    cdef uint32_t asked = 0
    if p.view.agents.mirror == MIRROR_OFF:
        return False
    while index:
        next = next_binding(&p.bindings, index)
        if p.bindings.slab[index].refreshed_at == p.now or p.bindings.slab[index].flags & GONE:
            asked += mirror_binding(p, index, server)
        index = next
    if asked == 0:
        return False
    put_bindings(p, r, p.scratch)
    wait_for_mirror(p, server)
    return True


# --- bindings that end by themselves

cdef void expire_bindings(Proxy* p) noexcept nogil:
    cdef uint32_t index
    cdef int _i
    for _i in range(EXPIRED_A_TURN):
        index = wheel_pop(&p.bindings.wheel, p.now)
        if index == 0:
            return
        bindings_lock(&p.bindings)
        if not p.bindings.slab[index].flags & GONE:
            p.counters[EXPIRED] += 1
            note_end(&p.bindings, index, END_EXPIRED, p.now)
        remove_binding(&p.bindings, index)
        bindings_unlock(&p.bindings)


cdef void flow_lost(Proxy* p, uint32_t stream) noexcept nogil:
    """A connection ended: what registered over it is reached by it no more (RFC 5626 section 7)."""
    cdef Flow flow
    cdef uint32_t index
    memset(&flow, 0, sizeof(Flow))
    flow.stream = stream
    index = find_flow(&p.bindings, &flow)
    while index:
        if not p.bindings.slab[index].flags & (DEAD_FLOW | GONE | BY_CONTACT):
            bindings_lock(&p.bindings)
            p.bindings.slab[index].flags |= DEAD_FLOW
            bindings_unlock(&p.bindings)
            p.counters[FLOWS_LOST] += 1
            note_end(&p.bindings, index, END_FLOW_LOST, p.now)
        index = next_of_flow(&p.bindings, index)
