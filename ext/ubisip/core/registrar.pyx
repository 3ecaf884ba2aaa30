# SPDX-License-Identifier: Apache-2.0
"""The registrar (RFC 3261 section 10.3, RFC 3327, RFC 5626): what a REGISTER makes of its agent's bindings.

A REGISTER is answered without a transaction where nobody has to be waited for: to answer it twice does what once does.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from libc.time cimport time_t, tm

from ubisip.core.accounts cimport Account, account_key, find_account, put_account, remove_account
from ubisip.core.address cimport Flow, write_number
from ubisip.core.authentication cimport ANSWERED, ASK_FIRST, REPLAYED, Verdict, authenticate, challenge, wall_seconds
from ubisip.core.bindings cimport (
    BY_CONTACT, CHANGED, DEAD_FLOW, END_EXPIRED, END_FLOW_LOST, END_REPLACED, END_UNREGISTERED, GONE, MAX_CALL_ID,
    MAX_USER_AGENT, OUTBOUND_BINDING, TEXT_CALL_ID, TEXT_CONTACT, TEXT_INSTANCE, TEXT_PATH,
    TEXT_USER_AGENT, Binding, Wanted, add_binding, agent_hash, aor_hash, binding_text, bindings_lock, bindings_unlock,
    expire_at, find_flow, first_own, next_of_flow, next_own, note_binding, note_end, remove_binding,
    rewrite_binding, same_flow,
)
from ubisip.core.contacts cimport (
    FIELD_SUPPORTED, FIELD_USER_AGENT, UNSUPPORTED_MOST, Register, canonical_aor, first_hop_is_outbound,
    goes_by_contact, has_tag, header_expires, is_flow, name_fields, put, read_contacts, read_path, refuse_extensions,
)
from ubisip.core.context cimport create_server, is_scarce
from ubisip.core.events cimport EVENT_CREDENTIALS, emit
from ubisip.core.message cimport ParsedMessage, header_value, parse_message
from ubisip.core.mirror cimport mirror_binding, wait_for_mirror
from ubisip.core.proxy cimport (
    BOUND_BINDINGS, EXPIRED, FLOWS_LOST, PARKED_REGISTERS, REFRESHED, REGISTERED, REPLAYS, SHED_REGISTERS,
    UNREGISTERED, ParkedRegister, Proxy,
)
from ubisip.core.reply cimport answer_transaction, respond
from ubisip.core.snapshot cimport MIRROR_OFF
from ubisip.core.span cimport Span, span_of
from ubisip.core.timers cimport wheel_pop
from ubisip.core.transactions cimport WANTS_CREDENTIALS, Transaction, handle_of, index_of, schedule

cdef extern from "time.h" nogil:
    tm* gmtime_r(const time_t* seconds, tm* out) noexcept


cdef enum:
    CREDENTIALS_LIMIT = 3000000  # microseconds a REGISTER waits for its agent's digests
    HOUR = 3600              # seconds; no interval that long may be called too brief
    GONE_LIMIT = 32000000    # microseconds for which servers are told of a binding that was unregistered
    REPLY_ROOM = 60000       # octets of the lines in an answer
    FLOW_TIMER = 120         # seconds between the keep-alives that a phone should send (RFC 5626 section 4.4)
    EXPIRED_A_TURN = 256     # bindings, so that thousands that expire together do not stop the calls


cdef bint refuse(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, int status, const char* reason,
                 const char* extra) noexcept nogil:
    respond(p, m, from_, server, status, reason, extra)
    return False


cdef void come_back(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, uint32_t least,
                    uint32_t spread) noexcept nogil:
    """503 with a Retry-After spread at random, so that those who come back do not all come at once."""
    cdef uint8_t out[64]
    cdef uint32_t at = put(out, 0, b"Retry-After: ", 13)
    p.registrar.dice = p.registrar.dice * 1664525 + 1013904223
    at += write_number(least + (p.registrar.dice >> 10) % spread, <char*>out + at)
    put(out, at, b"\r\n\0", 3)
    p.counters[SHED_REGISTERS] += 1
    respond(p, m, from_, server, 503, b"Service Unavailable", <const char*>out)


# --- digests that are asked for

cdef void ask_credentials(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, uint64_t account,
                          Span user, int peer, const uint64_t* key) noexcept nogil:
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
    if free_place == NULL or user.length > 512 or is_scarce(p):
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
    at = put(name, 0, <const char*>(m.data + user.at), user.length)
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
        if t.request == NULL or not parse_message(&p.received[0].message, t.request.data, t.request.size):
            continue
        if found:
            register_agent(p, &p.received[0].message, &parked.source, server, True, t.slot, NULL)
        else:
            come_back(p, &p.received[0].message, &parked.source, server, 5, 30)


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
            memcpy(account.ha1, digests, 16)
            memcpy(account.ha1 + 16, digests + 32, 64)
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


# --- what it makes of the bindings

cdef bint same_call(const Binding* b, const ParsedMessage* m) noexcept nogil:
    """By the octets that are kept of a Call-ID."""
    cdef uint32_t length
    cdef const uint8_t* text = binding_text(b, TEXT_CALL_ID, &length)
    return length == min(m.call_id.length, MAX_CALL_ID) and memcmp(text, m.data + m.call_id.at, length) == 0


cdef bint is_repeated(Proxy* p, const ParsedMessage* m, const Register* r) noexcept nogil:
    """The same REGISTER made a binding already, by the same flow: its answer got lost."""
    cdef uint32_t index = first_own(&p.bindings, r.hash, r.aor, r.aor_length)
    cdef const Binding* b
    while index:
        b = &p.bindings.slab[index]
        if b.cseq == m.cseq and same_call(b, m) and same_flow(&b.flow, &r.flow):
            return True
        index = next_own(&p.bindings, index)
    return False


cdef bint same_instance(const Binding* b, const ParsedMessage* m, const Wanted* wanted) noexcept nogil:
    cdef uint32_t length
    cdef const uint8_t* text = binding_text(b, TEXT_INSTANCE, &length)
    return length == wanted.instance.length and memcmp(text, m.data + wanted.instance.at, length) == 0


cdef uint32_t find_wanted(Proxy* p, const ParsedMessage* m, const Register* r, const Wanted* wanted) noexcept nogil:
    """The binding that a contact stands for: of its instance and reg-id (RFC 5626 section 6), else of its URI."""
    cdef uint32_t index = first_own(&p.bindings, r.hash, r.aor, r.aor_length)
    cdef const Binding* b
    while index:
        b = &p.bindings.slab[index]
        if is_flow(r, wanted):
            if b.reg_id == wanted.reg_id and same_instance(b, m, wanted):
                return index
        elif b.contact == wanted.key and b.reg_id == 0:
            return index
        index = next_own(&p.bindings, index)
    return 0


cdef int check_order(const Proxy* p, const ParsedMessage* m, const Register* r, uint32_t index) noexcept nogil:
    """Step 7: a REGISTER of the same call must have a higher CSeq. 0: go on; 1: it is the same again; -1: too late."""
    cdef const Binding* b = &p.bindings.slab[index]
    if not same_call(b, m) or m.cseq > b.cseq:
        return 0
    return 1 if m.cseq == b.cseq and not b.flags & (GONE | DEAD_FLOW) and same_flow(&b.flow, &r.flow) else -1


cdef void store(Proxy* p, const ParsedMessage* m, const Register* r, const Wanted* wanted,
                uint32_t index) noexcept nogil:
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
    elif not rewrite_binding(&p.bindings, index, parts, lengths, wanted.key, agent, &r.flow):
        return
    b = &p.bindings.slab[index]
    if b.flags & GONE:
        p.bindings.gone -= 1
        is_new = True
    b.flags = CHANGED
    if is_flow(r, wanted):
        b.flags |= OUTBOUND_BINDING
        b.reg_id = wanted.reg_id
    if goes_by_contact(p, m, &r.flow, wanted, r.path_length != 0):
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
    if p.view.agents.mirror == MIRROR_OFF:
        remove_binding(&p.bindings, index)
        return
    p.bindings.gone += 1
    b.flags |= GONE | CHANGED
    b.version += 1
    memset(b.in_step, 0, sizeof(b.in_step))
    expire_at(&p.bindings, index, min(b.expires_at, p.now + GONE_LIMIT))


cdef void unregister(Proxy* p, const ParsedMessage* m, uint32_t index) noexcept nogil:
    if not p.bindings.slab[index].flags & GONE:
        p.bindings.slab[index].cseq = m.cseq
        p.counters[UNREGISTERED] += 1
        end_binding(p, index, END_UNREGISTERED)


cdef bint remove_all(Proxy* p, const ParsedMessage* m, const Register* r) noexcept nogil:
    """Contact: * (step 6); False: one of the bindings is from a later REGISTER of the same call."""
    cdef uint32_t index = first_own(&p.bindings, r.hash, r.aor, r.aor_length), next
    while index:
        if check_order(p, m, r, index) != 0:
            return False
        index = next_own(&p.bindings, index)
    index = first_own(&p.bindings, r.hash, r.aor, r.aor_length)
    while index:
        next = next_own(&p.bindings, index)
        unregister(p, m, index)
        index = next
    return True


cdef bint check_times(Proxy* p, const ParsedMessage* m, const Flow* from_, Register* r, uint32_t server) noexcept nogil:
    """How long each contact is kept (step 7); False: one is too short, and 423 was answered."""
    cdef int64_t all_ = header_expires(m, r)
    cdef uint32_t least = min(p.view.agents.min_expires, HOUR)
    cdef uint8_t out[64]
    cdef uint32_t at
    cdef int i
    cdef Wanted* wanted
    for i in range(r.count):
        wanted = &r.wanted[i]
        if wanted.expires < 0:
            wanted.expires = all_ if all_ >= 0 else p.view.agents.default_expires
        if 0 < wanted.expires < least:
            at = put(out, 0, b"Min-Expires: ", 13)
            at += write_number(least, <char*>out + at)
            put(out, at, b"\r\n\0", 3)
            return refuse(p, m, from_, server, 423, b"Interval Too Brief", <const char*>out)
        wanted.expires = min(wanted.expires, p.view.agents.max_expires)
    if r.star and all_ != 0:
        return refuse(p, m, from_, server, 400, b"Bad Contact", NULL)
    return True


cdef struct Change:          # what a REGISTER would make of the number of bindings
    uint32_t total           # of the address of record, those of flows that are dead included
    uint32_t living
    uint32_t made            # places in the table
    int more                 # living ones, less those that it removes


cdef void count_bindings(const Proxy* p, const Register* r, Change* change) noexcept nogil:
    cdef uint32_t index = first_own(&p.bindings, r.hash, r.aor, r.aor_length)
    memset(change, 0, sizeof(Change))
    while index:
        change.total += not p.bindings.slab[index].flags & GONE
        change.living += not p.bindings.slab[index].flags & (GONE | DEAD_FLOW)
        index = next_own(&p.bindings, index)


cdef bint check_room(Proxy* p, const ParsedMessage* m, const Flow* from_, const Change* change,
                     uint32_t server) noexcept nogil:
    cdef uint8_t reason[64]
    cdef uint32_t at
    if change.more > 0 and change.living + change.more > p.view.agents.max_contacts:
        at = put(reason, 0, b"Too Many Contacts, At Most ", 27)
        at += write_number(p.view.agents.max_contacts, <char*>reason + at)
        reason[at] = 0
        return refuse(p, m, from_, server, 403, <const char*>reason, NULL)
    if change.made and p.bindings.used - p.bindings.shared + change.made > min(
            p.bindings.capacity - p.bindings.most_shared, p.view.agents.max_bindings):
        p.counters[BOUND_BINDINGS] += 1
        come_back(p, m, from_, server, 30, 60)
        return False
    return True


cdef void drop_dead(Proxy* p, const Register* r) noexcept nogil:
    """Contacts whose flows are dead make room for others: nothing reaches them any more. The lock is held."""
    cdef uint32_t index = first_own(&p.bindings, r.hash, r.aor, r.aor_length), next
    while index:
        next = next_own(&p.bindings, index)
        if p.bindings.slab[index].flags & DEAD_FLOW and not p.bindings.slab[index].flags & GONE:
            end_binding(p, index, END_REPLACED)
        index = next


cdef void apply(Proxy* p, const ParsedMessage* m, const Register* r) noexcept nogil:
    """The lock is held. Contacts given twice are one: the later one counts, so each is looked for anew."""
    cdef uint32_t index
    cdef int i
    for i in range(r.count):
        index = find_wanted(p, m, r, &r.wanted[i])
        if r.wanted[i].expires:
            store(p, m, r, &r.wanted[i], index)
        elif index:
            unregister(p, m, index)


cdef int plan_changes(Proxy* p, const ParsedMessage* m, const Register* r, Change* change) noexcept nogil:
    """What the contacts would change. 0: go on; 1: it is the same REGISTER again; -1: it comes too late (step 7)."""
    cdef uint32_t index
    cdef bint wants, lives
    cdef int i, order, again = 0
    count_bindings(p, r, change)
    for i in range(r.count):
        index = find_wanted(p, m, r, &r.wanted[i])
        if index:
            order = check_order(p, m, r, index)
            if order < 0:
                return -1
            again |= order
        wants = r.wanted[i].expires != 0
        lives = index != 0 and not p.bindings.slab[index].flags & (GONE | DEAD_FLOW)
        change.more += wants - lives
        change.made += index == 0 and wants
    return again


cdef bint commit(Proxy* p, const ParsedMessage* m, const Flow* from_, Register* r, uint32_t server) noexcept nogil:
    """Change the bindings, all or none (section 10.3); False: nothing was changed, and the REGISTER was answered."""
    cdef Change change
    cdef bint sound = True
    cdef int order = plan_changes(p, m, r, &change)
    if order < 0:
        return refuse(p, m, from_, server, 500, b"CSeq Out Of Order", NULL)
    if order or r.replayed:
        return True  # the same REGISTER once more: it is answered, and nothing changes
    if not check_room(p, m, from_, &change, server):
        return False
    bindings_lock(&p.bindings)
    if change.total + change.made > p.view.agents.max_contacts:
        drop_dead(p, r)
    if r.star:
        sound = remove_all(p, m, r)
    apply(p, m, r)
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
    """Every binding of the address of record, Path, Service-Route, Date (steps 8 and 9, RFC 3327 section 5.3, RFC 3608
    section 6.3, RFC 5626 section 6)."""
    cdef uint32_t index = first_own(&p.bindings, r.hash, r.aor, r.aor_length), at = 0
    cdef bint outbound = False
    while index and at < REPLY_ROOM - 2048:
        if not p.bindings.slab[index].flags & (GONE | DEAD_FLOW):
            at = put_contact(p, &p.bindings.slab[index], out, at)
            outbound = outbound or (p.bindings.slab[index].flags & OUTBOUND_BINDING and r.outbound)
        index = next_own(&p.bindings, index)
    if r.path_length:
        at = put(out, at, b"Path: ", 6)
        at = put(out, at, <const char*>r.path, r.path_length)
        at = put(out, at, b"\r\n", 2)
    if p.view.agents.service_route:
        at = put(out, at, b"Service-Route: <sip:", 20)
        at = put(out, at, p.view.listeners[r.flow.listener].record_route.text,
                 p.view.listeners[r.flow.listener].record_route.length)
        at = put(out, at, b";lr>\r\n", 6)
    if outbound:
        at = put(out, at, b"Require: outbound\r\nFlow-Timer: ", 31)
        at += write_number(FLOW_TIMER, <char*>out + at)
        at = put(out, at, b"\r\n", 2)
    at = put(out, at, b"Supported: path, outbound\r\n", 27)
    at = put_date(p, out, at)
    out[at] = 0
    return at


cdef void accept(Proxy* p, const ParsedMessage* m, const Flow* from_, const Register* r,
                 uint32_t server) noexcept nogil:
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


cdef bint understand(Proxy* p, const ParsedMessage* m, const Flow* from_, Register* r,
                     uint32_t server) noexcept nogil:
    """What it wants; False: it says that badly, or we may not do it, and was told so."""
    cdef int i
    r.outbound = has_tag(m, r, FIELD_SUPPORTED, b"outbound", 8)
    for i in range(m.count):
        if r.field[i] == FIELD_USER_AGENT:
            r.user_agent = header_value(m, i)
    if not read_contacts(m, r):
        return refuse(p, m, from_, server, 400, b"Bad Contact", NULL)
    if not read_path(m, r):
        return refuse(p, m, from_, server, 400, b"Bad Path", NULL)
    if r.path_length and r.count and is_flow(r, &r.wanted[0]) and not first_hop_is_outbound(r):
        return refuse(p, m, from_, server, 439, b"First Hop Lacks Outbound Support", NULL)
    return check_times(p, m, from_, r, server)


cdef void register_agent(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, bint asked, int peer,
                         const uint64_t* key) noexcept nogil:
    """The steps of section 10.3, in their order; *server* is the transaction of one that was parked."""
    cdef Register r
    cdef uint8_t unsupported[UNSUPPORTED_MOST]
    cdef uint64_t account = 0
    cdef Span user = span_of(0, 0)
    cdef Verdict verdict
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
    verdict = authenticate(p, m, from_, &r, server, asked, &account, &user)
    if verdict == ASK_FIRST:
        ask_credentials(p, m, from_, server, account, user, peer, key)
    r.replayed = verdict == REPLAYED
    if r.replayed and not is_repeated(p, m, &r):
        p.counters[REPLAYS] += 1
        challenge(p, m, from_, server, find_account(&p.accounts, account), True)
        return
    if verdict == ANSWERED or verdict == ASK_FIRST:
        return
    if not understand(p, m, from_, &r, server):
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
    cdef uint32_t index = first_own(&p.bindings, r.hash, r.aor, r.aor_length), next
    cdef uint32_t asked = 0
    if p.view.agents.mirror == MIRROR_OFF:
        return False
    while index:
        next = next_own(&p.bindings, index)
        if p.bindings.slab[index].flags & CHANGED:
            p.bindings.slab[index].flags &= <uint16_t>~<uint16_t>CHANGED
            asked += mirror_binding(p, index, server)
        index = next
    if asked == 0:
        return False
    put_bindings(p, r, p.scratch)
    wait_for_mirror(p, server)
    return True


# --- bindings that end by themselves

cdef bint expire_bindings(Proxy* p) noexcept nogil:
    """False: no more are due now."""
    cdef uint32_t index
    cdef int _i
    for _i in range(EXPIRED_A_TURN):
        index = wheel_pop(&p.bindings.wheel, p.now)
        if index == 0:
            return False
        bindings_lock(&p.bindings)
        if not p.bindings.slab[index].flags & GONE:
            p.counters[EXPIRED] += p.bindings.slab[index].home == 0
            note_end(&p.bindings, index, END_EXPIRED, p.now)
        remove_binding(&p.bindings, index)
        bindings_unlock(&p.bindings)
    return True


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
