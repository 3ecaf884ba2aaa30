# SPDX-License-Identifier: Apache-2.0
"""Response processing (RFC 3261 sections 16.7 to 16.9): what becomes of each attempt, and what the caller hears."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from ubisip.core.address cimport ANY_STREAM, Flow, same_address
from ubisip.core.agents cimport flow_failed, other_flow
from ubisip.core.bindings cimport find_flow
from ubisip.core.context cimport attempt_failed, rank
from ubisip.core.edits cimport delete, edit, edits_clear, edits_growth, insert_span, splice
from ubisip.core.events cimport EVENT_ANSWERED, EVENT_BUSY, EVENT_ENDED, EVENT_PROBE, EVENT_RINGING, emit
from ubisip.core.forward cimport (
    KEY_CANCEL, KEY_INVITE, KEY_OTHER, KEY_PROBE, cancel_others, leave_setup, record_call, send_ack, send_cancel,
)
from ubisip.core.headers cimport Via, parse_via, via_response_address
from ubisip.core.identity cimport branch_key, call_hash, is_rfc3261_branch
from ubisip.core.machines cimport (
    CLIENT_INVITE, CLIENT_OTHER, COMPLETED, DO_ACK, DO_STOP, DO_TELL, DO_WAIT, GOT_1XX, GOT_2XX, GOT_FINAL,
    SERVER_INVITE, WRONG, Cell, machine_step,
)
from ubisip.core.message cimport (
    HEADER_CHALLENGE, HEADER_RETRY_AFTER, HEADER_VIA, METHOD_BYE, METHOD_CANCEL, METHOD_INVITE, ParsedMessage,
    header_end, header_value, next_header, parse_message,
)
from ubisip.core.mirror cimport look_after, mirror_answered, note_listing, server_emptied
from ubisip.core.outbox cimport outbox_commit, outbox_reserve
from ubisip.core.proxy cimport (
    BOUND_CALLS, DATAGRAM, FORGED_RESPONSES, LATE_ANSWERS, PDD_BUCKETS, STATELESS_RESPONSES, STRANGER_RESPONSES,
    STRAY_RESPONSES, WRONG_EVENTS, Proxy,
)
from ubisip.core.reply cimport add_content_length, answer_later, send_response
from ubisip.core.snapshot cimport default_port, find_peer, is_own
from ubisip.core.span cimport Cursor, cursor, span_of, take_number
from ubisip.core.targets cimport call_answered, call_ended, foresee_call
from ubisip.core.timers cimport LIFETIME, T4, TIMER_D
from ubisip.core.token cimport Branch, Vouched, read_branch, read_hex, verify_branch
from ubisip.core.transactions cimport (
    ABANDONED, MIRRORED, NEW_CALL, OWN_CANCEL, PROBE, RANG, WANT_CANCEL, Transaction, find,
    foresee_transaction, keep, release, schedule,
)
from ubisip.core.uri cimport SCHEME_SIP, Uri


# Upper bounds of the post-dial delay histogram, microseconds; the last bucket has none.
cdef int64_t* PDD_BOUNDS = [1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000, 1500000, 2000000,
                            5000000, 10000000, 30000000, 60000000]
pdd_bounds = tuple(PDD_BOUNDS[i] / 1e6 for i in range(PDD_BUCKETS))


# --- which attempt a response belongs to

cdef bint response_key(const ParsedMessage* m, uint64_t* key, Branch* branch, bint* is_probe) noexcept nogil:
    """Key of the client transaction by branch and CSeq method (section 17.1.3); False: the branch is none of ours."""
    is_probe[0] = False
    if read_branch(m.data, m.via.branch, branch):
        key[0] = branch.mac
        key[1] = KEY_INVITE if m.method == METHOD_INVITE else (KEY_CANCEL if m.method == METHOD_CANCEL else KEY_OTHER)
        return True
    if m.via.branch.length == 24 and memcmp(m.data + m.via.branch.at, b"z9hG4bKp", 8) == 0 \
            and read_hex(m.data + m.via.branch.at + 8, 16, &key[0]):
        key[1] = KEY_PROBE
        is_probe[0] = True
        return True
    return False


cdef bint is_own_via(const Proxy* p, const ParsedMessage* m) noexcept nogil:
    """The sent-by of the top Via is ours (section 18.1.2)."""
    cdef Uri uri
    memset(&uri, 0, sizeof(Uri))
    uri.scheme = SCHEME_SIP
    uri.host = m.via.host
    uri.port = m.via.port
    return is_own(p.view, m.data, &uri)


cdef bint second_via(const ParsedMessage* m, Via* via) noexcept nogil:
    cdef int line = m.first[HEADER_VIA]
    if m.via.next:
        return parse_via(m.data, span_of(m.via.next, m.headers[line].value + m.headers[line].value_length), via)
    line = next_header(m, line)
    return line >= 0 and parse_via(m.data, header_value(m, line), via)


cdef uint32_t write_upstream(Proxy* p, const ParsedMessage* m, int status, bint stream, uint8_t** out) noexcept nogil:
    """The response as it goes on: without our Via, a 503 as 500 (section 16.7 step 6); 0: no room."""
    cdef int line = m.first[HEADER_VIA]
    edits_clear(&p.edits)
    if m.via.next:
        delete(&p.edits, m.headers[line].value, m.via.next)
    else:
        delete(&p.edits, m.headers[line].line, header_end(m, line))
    if status != m.status:
        edit(&p.edits, m.start, m.start_end - m.start, b"SIP/2.0 500 Server Internal Error\r\n", 35)
    if stream:
        add_content_length(m, &p.edits)
    out[0] = outbox_reserve(&p.outbox, m.size + edits_growth(&p.edits))
    if out[0] == NULL:
        return 0
    return splice(&p.edits, m.data, m.start, m.size, out[0])


cdef bint leave_from(const Proxy* p, const Branch* branch, const Via* upstream, Flow* to) noexcept nogil:
    """Without its transaction a response leaves from the listener that the request came to; False: it is gone."""
    if branch.listener >= p.view.listener_count:
        return False
    to.listener = branch.listener
    to.stream = ANY_STREAM if p.view.listeners[to.listener].stream else 0
    if to.stream:  # the connection is gone: section 18.2.2
        to.peer.port = upstream.port if upstream.port else default_port(p.view.listeners[to.listener].transport)
    return True


cdef void forward_stateless(Proxy* p, const ParsedMessage* m, const Branch* branch) noexcept nogil:
    """A response to an INVITE whose transaction is gone with a gateway goes on if its branch verifies."""
    cdef Via upstream
    cdef Vouched vouched
    cdef Flow to
    cdef uint8_t* out = NULL
    cdef uint32_t size
    if m.method != METHOD_INVITE:
        # RFC 4320 section 4.2: its client asks again, and so makes the transaction anew.
        p.counters[STRAY_RESPONSES] += 1
        return
    if not second_via(m, &upstream) or upstream.has_maddr or not via_response_address(m.data, &upstream, &to.peer):
        p.counters[FORGED_RESPONSES] += 1
        return
    vouched.data = m.data
    vouched.call_id = m.call_id
    vouched.from_tag = m.from_.tag
    vouched.upstream = upstream.branch
    vouched.sent_by = upstream.sent_by
    vouched.cseq = m.cseq
    vouched.invite = True
    vouched.response_to = to.peer
    if not verify_branch(&p.keys, branch, &vouched):
        p.counters[FORGED_RESPONSES] += 1
        return
    if m.status == 100:
        return
    if not leave_from(p, branch, &upstream, &to):
        return
    size = write_upstream(p, m, m.status, to.stream != 0, &out)
    if size:
        outbox_commit(&p.outbox, size, &to)
        p.counters[STATELESS_RESPONSES] += 1
        p.responses[m.status // 100] += 1


cdef bint fits(Proxy* p, uint32_t client, const ParsedMessage* m, uint64_t call) noexcept nogil:
    """A response to what we forwarded is of the same call, and its next Via is that of the request we were sent."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef Transaction* s = &p.transactions.slab[t.server]
    cdef Via upstream
    cdef uint64_t key[2]
    if t.flags & (PROBE | OWN_CANCEL | MIRRORED):
        return True
    if call != t.call or m.cseq != t.cseq or not second_via(m, &upstream):
        return False
    if t.server == 0 or not is_rfc3261_branch(m.data, upstream.branch):
        return True
    branch_key(p.secret, m, upstream.branch, upstream.sent_by, s.machine == SERVER_INVITE, key)
    return key[0] == s.key[0] and key[1] == s.key[1]


cdef void receive_response(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil:
    cdef uint64_t key[2]
    cdef uint64_t call
    cdef Branch branch
    cdef bint is_probe = False
    cdef uint32_t client
    cdef bint known
    if not is_own_via(p, m) or not response_key(m, key, &branch, &is_probe):
        p.counters[STRAY_RESPONSES] += 1
        return
    foresee_transaction(&p.transactions, key)
    call = call_hash(m)
    if m.status >= 200:
        foresee_call(&p.targets, call)
    known = find_peer(p.view, from_) >= 0 or (p.bindings.used and find_flow(&p.bindings, from_))
    client = find(&p.transactions, key)
    if not known and not (client and same_address(&p.transactions.slab[client].flow.peer, &from_.peer)) and \
            (client or not p.view.agents.enabled):
        # Phones may answer a gateway that was restarted and knows them no more: then the branch must verify.
        p.counters[STRANGER_RESPONSES] += 1
        return
    if client and p.transactions.slab[client].flags & (PROBE | MIRRORED) and \
            not same_address(&p.transactions.slab[client].flow.peer, &from_.peer):
        p.counters[STRANGER_RESPONSES] += 1  # a probe is answered by whom it asks, or proves nothing
    elif client and not fits(p, client, m, call):
        p.counters[FORGED_RESPONSES] += 1
    elif client:
        client_response(p, client, m)
    elif is_probe:
        p.counters[STRAY_RESPONSES] += 1
    else:
        forward_stateless(p, m, &branch)


# --- one attempt

cdef int64_t wait_time(const Transaction* t) noexcept nogil:
    """Timer D, K or M."""
    if t.machine == CLIENT_OTHER:
        return T4
    return TIMER_D if t.state == COMPLETED else LIFETIME


cdef void client_response(Proxy* p, uint32_t client, const ParsedMessage* m) noexcept nogil:
    cdef Transaction* t = &p.transactions.slab[client]
    cdef int happening = GOT_1XX if m.status < 200 else (GOT_2XX if m.status < 300 else GOT_FINAL)
    cdef Cell cell = machine_step(t.machine, t.state, happening)
    cdef bint first = t.status == 0
    if cell.actions & WRONG:
        p.counters[WRONG_EVENTS] += 1
        return
    if first and t.slot >= 0 and m.status != 503:
        if not t.flags & MIRRORED:
            p.targets.load[t.slot].successes += 1
        if p.registrar.refused[t.slot]:
            p.registrar.refused[t.slot] = False
            server_emptied(p, t.slot)  # nobody listened there for a moment: it may have been started anew
    t.state = cell.state
    t.status = max(t.status, m.status)
    if cell.actions & DO_STOP:
        t.retransmit_at = t.give_up_at = 0
    if cell.actions & DO_ACK:
        send_ack(p, client, m)
    if cell.actions & DO_WAIT:
        t.retransmit_at = t.give_up_at = 0
        t.expire_at = p.now + wait_time(t)
        if not cell.actions & DO_ACK:
            release(&p.transactions.pool, &t.request)
    if cell.actions & DO_TELL:
        tell_response(p, client, m)
    schedule(&p.transactions, client)


cdef void tell_response(Proxy* p, uint32_t client, const ParsedMessage* m) noexcept nogil:
    cdef Transaction* t = &p.transactions.slab[client]
    if t.flags & MIRRORED:
        if 200 <= m.status < 300:
            note_listing(p, client, m)
        if m.status >= 200 and not t.flags & PROBE:
            mirror_answered(p, client, m.status)
    elif t.flags & PROBE:
        if m.status >= 200:
            emit(&p.events, EVENT_PROBE, p.now, t.slot, m.status, <int64_t>t.call, p.now - t.created, NULL, 0)
            look_after(p, t.slot)
    elif t.flags & OWN_CANCEL or (t.server == 0 and m.status < 200):
        return
    elif m.status < 200:
        if t.machine == CLIENT_INVITE:
            provisional(p, client, m)
    elif m.status < 300 and t.machine == CLIENT_INVITE:
        answered(p, client, m)
    else:
        leave_setup(p, client)
        if t.method == METHOD_BYE and not is_challenge(m.status):
            ended(p, client)
        if t.server:
            final(p, client, m)


cdef void ended(Proxy* p, uint32_t client) noexcept nogil:
    """A BYE got its answer, or never will: the call is over."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef int slot = call_ended(&p.targets, t.call)
    if p.view.record and t.server:
        record_call(p, EVENT_ENDED, slot, 0, &p.transactions.slab[t.server])


cdef void provisional(Proxy* p, uint32_t client, const ParsedMessage* m) noexcept nogil:
    """Steps 2 and 5: Timer C is set, and set anew by 101-199, which go upstream at once."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef uint32_t server = t.server
    cdef uint8_t* out = NULL
    cdef uint32_t size
    if t.flags & WANT_CANCEL:
        send_cancel(p, client)
        if t.flags & ABANDONED:
            return
    elif m.status > 100 or t.expire_at <= t.created + 64 * <int64_t>t.t1:
        t.expire_at = p.now + p.view.timer_c
    if m.status == 100:
        return
    measure_delay(p, server, m.status, t.slot)
    size = write_upstream(p, m, m.status, p.transactions.slab[server].flow.stream != 0, &out)
    if size:
        send_response(p, server, out, size, m.status)


cdef void measure_delay(Proxy* p, uint32_t server, int status, int slot) noexcept nogil:
    """Post-dial delay: from the INVITE to the first ringing or answer."""
    cdef Transaction* s = &p.transactions.slab[server]
    cdef int64_t delay = p.now - s.created
    cdef int i = 0
    if s.flags & RANG or not s.flags & NEW_CALL:
        return
    s.flags |= RANG
    while i < PDD_BUCKETS and delay > PDD_BOUNDS[i]:
        i += 1
    p.pdd.bucket[i] += 1
    p.pdd.count += 1
    p.pdd.sum += delay
    if p.view.record and status < 200:
        record_call(p, EVENT_RINGING, slot, status, s)


cdef void answered(Proxy* p, uint32_t client, const ParsedMessage* m) noexcept nogil:
    """A 2xx to an INVITE goes upstream at once, each one and each time (step 5); the other attempts are cancelled."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef uint32_t server = t.server, size
    cdef Transaction* s = &p.transactions.slab[server]
    cdef uint8_t* out = NULL
    cdef bint first = t.flags & RANG == 0
    leave_setup(p, client)
    if first:
        t.flags |= RANG  # of a client transaction: its answer has been counted
        if t.flags & ABANDONED or server == 0:
            p.counters[LATE_ANSWERS] += 1
    if server == 0:
        late_answer(p, m)
        return
    if first and s.flags & NEW_CALL:
        measure_delay(p, server, m.status, t.slot)
        if t.slot >= 0:
            p.targets.load[t.slot].answered += 1
            if not call_answered(&p.targets, s.call, t.slot, p.now):
                p.counters[BOUND_CALLS] += 1
        if p.view.record:
            record_call(p, EVENT_ANSWERED, t.slot, m.status, s)
    size = write_upstream(p, m, m.status, s.flow.stream != 0, &out)
    if size:
        send_response(p, server, out, size, m.status)
    elif s.state < COMPLETED:
        send_later(p, server, m)
    cancel_others(p, server, client)


cdef void send_later(Proxy* p, uint32_t server, const ParsedMessage* m) noexcept nogil:
    """The outbox has no room for a success: it is kept, edited as it is, for the server transaction's timer."""
    cdef Transaction* s = &p.transactions.slab[server]
    if m.size + edits_growth(&p.edits) > DATAGRAM:
        return
    release(&p.transactions.pool, &s.best)
    s.best = keep(&p.transactions.pool, p.scratch, splice(&p.edits, m.data, m.start, m.size, p.scratch))
    s.best_status = m.status
    answer_later(p, server, m.status)


cdef void late_answer(Proxy* p, const ParsedMessage* m) noexcept nogil:
    """The server transaction is gone already: the Via tells the way, the branch was matched."""
    cdef Via upstream
    cdef Branch branch
    cdef Flow to
    cdef uint8_t* out = NULL
    cdef uint32_t size
    if not read_branch(m.data, m.via.branch, &branch) or not second_via(m, &upstream) or \
            not via_response_address(m.data, &upstream, &to.peer) or not leave_from(p, &branch, &upstream, &to):
        return
    size = write_upstream(p, m, m.status, to.stream != 0, &out)
    if size:
        outbox_commit(&p.outbox, size, &to)


cdef int64_t read_retry_after(const ParsedMessage* m) noexcept nogil:
    """Retry-After in microseconds; 0: none that can be read."""
    cdef Cursor c
    cdef uint64_t seconds = 0
    if m.first[HEADER_RETRY_AFTER] < 0:
        return 0
    c = cursor(m.data, header_value(m, m.first[HEADER_RETRY_AFTER]))
    return <int64_t>seconds * 1000000 if take_number(&c, 86400, &seconds) else 0


cdef void final(Proxy* p, uint32_t client, const ParsedMessage* m) noexcept nogil:
    """A final response other than a 2xx to an INVITE: a success goes upstream, the best failure is kept."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef uint32_t server = t.server, size
    cdef Transaction* s = &p.transactions.slab[server]
    cdef uint8_t* out = NULL
    cdef int64_t rest
    cdef int status = 500 if m.status == 503 else m.status
    if m.status == 503 and t.slot >= 0:
        rest = read_retry_after(m)
        p.targets.load[t.slot].rest_until = p.now + rest
        emit(&p.events, EVENT_BUSY, p.now, t.slot, 503, 0, rest, NULL, 0)
    if s.state >= COMPLETED:
        return
    if m.status < 300:
        size = write_upstream(p, m, m.status, s.flow.stream != 0, &out)
        if size:
            send_response(p, server, out, size, m.status)
        else:
            send_later(p, server, m)
        return
    if m.status == 408 and s.machine != SERVER_INVITE:
        # Not passed on: it would only come too late (RFC 4320 section 4.2).
        attempt_failed(p, server, 408, t.slot, False)
        return
    if m.status == 430 and t.agent:
        # It speaks of one flow: the agent's other one is tried, and nobody hears of it (RFC 5626 section 7).
        flow_failed(p, t)
        if not other_flow(p, server, t.agent, t.reg_id):
            attempt_failed(p, server, 430, t.slot, False)
        return
    if is_challenge(m.status) and is_challenge(s.best_status) and s.best != NULL:
        gather_challenges(p, s, m)
    elif rank(m.status) < rank(s.best_status):
        size = write_upstream(p, m, status, s.flow.stream != 0, &out)
        if size:
            release(&p.transactions.pool, &s.best)
            s.best = keep(&p.transactions.pool, out, size)
            s.best_status = m.status
    if m.status >= 600:
        cancel_others(p, server, client)
    attempt_failed(p, server, m.status, t.slot, p.view.failover_on[m.status] != 0)


cdef bint is_challenge(int status) noexcept nogil:
    return status == 401 or status == 407


cdef void gather_challenges(Proxy* p, Transaction* s, const ParsedMessage* m) noexcept nogil:
    """Step 7: the caller gets the challenges of every branch, in the best response."""
    cdef int i
    cdef uint8_t* out
    cdef uint32_t size
    if not parse_message(&p.stored, s.best.data, s.best.size):
        return
    edits_clear(&p.edits)
    for i in range(m.count):
        if m.headers[i].id == HEADER_CHALLENGE:
            insert_span(&p.edits, header_end(&p.stored, p.stored.count - 1), m.data,
                        span_of(m.headers[i].line, header_end(m, i)))
    out = outbox_reserve(&p.outbox, s.best.size + edits_growth(&p.edits))
    if out == NULL or p.edits.overflow:
        return
    size = splice(&p.edits, s.best.data, 0, s.best.size, out)
    release(&p.transactions.pool, &s.best)
    s.best = keep(&p.transactions.pool, out, size)
