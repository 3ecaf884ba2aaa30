# SPDX-License-Identifier: Apache-2.0
"""Request processing (RFC 3261 sections 16.3 to 16.6, 16.10): from a datagram to a response context."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.agents cimport (
    AGENT_AWAY, AGENT_BOUND, AgentTarget, agent_at, breadth_of, cancel_rung, find_target, is_agent_id, ring,
)
from ubisip.core.contacts cimport is_for_registrar
from ubisip.core.context cimport conclude, create_server, is_scarce
from ubisip.core.events cimport EVENT_ASK, emit
from ubisip.core.forward cimport attempt, attempt_next, cancel_others, cancel_restarted, forward_stateless
from ubisip.core.identity cimport call_hash, server_key, tag_hash
from ubisip.core.machines cimport (
    COMPLETED, DO_SEND, DO_TELL, DO_WAIT, GOT_ACK, GOT_REQUEST, PROCEEDING, SERVER_INVITE, TIMER_RETRANSMIT, Cell,
    machine_step,
)
from ubisip.core.message cimport (
    HEADER_RESOURCE_PRIORITY, METHOD_ACK, METHOD_CANCEL, METHOD_INVITE, METHOD_OPTIONS, ParsedMessage, parse_message,
)
from ubisip.core.mirror cimport mirror_late
from ubisip.core.nexthop cimport NEW, hop_reason, next_hop, secured, side_across
from ubisip.core.outbox cimport outbox_send
from ubisip.core.proxy cimport (
    AGENT_CALLS, BAD_TOKENS, BOUND_TRANSACTIONS, CALLS, CANCELS, FLOW_FAILED, HOOK_LATE, NO_DESTINATION,
    RETRANSMISSIONS, RETRANSMITTED, SHED_CAPACITY, SHED_DRAINING, SHED_OVERLOAD, SHED_SOURCE, STRANGERS_DROPPED,
    STRANGERS_REFUSED, Proxy, Received,
)
from ubisip.core.registrar cimport credentials_late, receive_register
from ubisip.core.reply cimport answer, answer_kept, answer_transaction, is_own_tag, retry_after
from ubisip.core.route cimport TOKEN_GOOD, RoutePlan, preprocess
from ubisip.core.snapshot cimport find_peer, is_emergency_number, is_gateway, set_hop
from ubisip.core.targets cimport ALL_FULL, allow, choose, has_room
from ubisip.core.timers cimport T2, T4
from ubisip.core.transactions cimport (
    CANCELLED, EMERGENCY_CALL, FIXED, MIRRORED, NEW_CALL, OVERDUE, PARKED, PEER_AGENT, PEER_GATEWAY, TO_AGENT,
    WANTS_CREDENTIALS, Transaction, destroy, find, handle_of, index_of, release, schedule,
)
from ubisip.core.validation cimport validate

cdef enum:
    LARGEST_REQUEST = 64000  # a UDP datagram carries 65,507 octets, and our Via, Record-Route and Routes come in
    MOST_LINES = 200         # of MAX_HEADERS: ours come in, and what we sent must still be read for its ACK and CANCEL
    LIKELY = 3               # destinations that a request of a gateway that is gone may have been sent to


cdef void receive_request(Proxy* p, const Received* received, const Flow* from_) noexcept nogil:
    cdef const ParsedMessage* m = &received.message
    cdef const uint64_t* key = received.key
    cdef uint32_t server
    cdef int peer = find_peer(p.view, from_)
    cdef bint registers = is_for_registrar(p, m)
    cdef uint64_t agent = 0
    if peer < 0 and not registers:
        agent = agent_at(p, m, from_) if p.bindings.used else 0
        if agent == 0 and p.view.agents.enabled:
            agent = agent_in_dialog(p, m)
        peer = PEER_AGENT
        if agent == 0:
            if not from_gateway(p, m, from_):
                refuse_stranger(p, m, from_)
                return
            peer = PEER_GATEWAY
    server = find(&p.transactions, key)
    if m.method == METHOD_ACK:
        receive_ack(p, m, from_, server, peer)
    elif server:
        absorb(p, server)
    elif registers:
        if validate(p, m, from_):
            receive_register(p, m, from_, peer, key)
    elif m.method == METHOD_CANCEL:
        receive_cancel(p, m, from_, peer)
    else:
        route(p, m, from_, peer, agent, key)


cdef uint64_t agent_in_dialog(Proxy* p, const ParsedMessage* m) noexcept nogil:
    """The agent whose phone sends a request in a dialog that a gateway of ours made, by its token: he may have moved,
    or his registration be gone with a gateway. 0: it is nobody's."""
    cdef RoutePlan plan
    cdef uint64_t party
    if m.to.tag.length == 0 or preprocess(p, m, &plan) != 0 or plan.token_state != TOKEN_GOOD:
        return 0
    party = plan.token.caller if tag_hash(m, m.from_.tag) == plan.token.tag else plan.token.callee
    return party if is_agent_id(party) else 0


cdef bint from_gateway(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil:
    """Another gateway of ours sends it to an agent whose flow is here, by the token of that flow."""
    cdef RoutePlan plan
    return is_gateway(p.view, from_) and preprocess(p, m, &plan) == 0 and plan.agent != 0


cdef void refuse_stranger(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil:
    """No carrier, server or agent: 403, and silence past a rate, so that we are no use to one who forges sources."""
    if m.method == METHOD_ACK or not allow(&p.refusals, p.view.refusals, max(1.0, p.view.refusals), p.now):
        p.counters[STRANGERS_DROPPED] += 1
        return
    p.counters[STRANGERS_REFUSED] += 1
    answer(p, m, from_, 403, b"Unknown Source", NULL)


cdef void absorb(Proxy* p, uint32_t server) noexcept nogil:
    """A retransmission ends here, answered by the last response if there is one."""
    cdef Transaction* t = &p.transactions.slab[server]
    cdef Cell cell = machine_step(t.machine, t.state, GOT_REQUEST)
    p.counters[RETRANSMISSIONS] += 1
    if t.machine == SERVER_INVITE and t.state == PROCEEDING and t.status == 0:
        answer_transaction(p, server, 100, b"Trying", NULL)  # it is asked for
    elif cell.actions & DO_SEND and t.response != NULL:
        outbox_send(&p.outbox, t.response.data, t.response.size, &t.flow)


# --- sections 16.4 and 16.5: where to

cdef void route(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer, uint64_t agent,
                const uint64_t* key) noexcept nogil:
    """*agent* is the one it came from, if *peer* is PEER_AGENT."""
    cdef RoutePlan plan
    cdef Flow hop
    cdef int slot = -1, status
    cdef AgentTarget target
    if p.overloaded and m.method == METHOD_INVITE and m.to.tag.length == 0 and not is_emergency(p, m):
        shed(p, m, from_, SHED_OVERLOAD)  # at once: what it costs to refuse is lost to the calls that are carried
        return
    if not validate(p, m, from_):
        return
    status = preprocess(p, m, &plan)
    if status == 403:
        p.counters[BAD_TOKENS] += 1
        answer(p, m, from_, 403, b"Bad Route Token", NULL)
        return
    if status:
        answer(p, m, from_, status, b"Bad Route", NULL)
        return
    if m.size > LARGEST_REQUEST or m.count > MOST_LINES:
        answer(p, m, from_, 513, b"Message Too Large", NULL)
        return
    status = secured(p, m, &hop, next_hop(p, m, &plan, peer, &hop, &slot))
    if status == NEW:
        target = find_target(p, m, &plan, peer)
        if m.method == METHOD_OPTIONS and (plan.own or p.view.agents.enabled) and not plan.request_uri.has_user:
            answer_options(p, m, from_)
        elif target == AGENT_BOUND:
            call_agent(p, m, from_, peer, agent, key)
        elif target == AGENT_AWAY:
            answer(p, m, from_, 480, b"Temporarily Unavailable", NULL)
        else:
            start(p, m, from_, peer, agent, key, &plan)
    elif status:
        if status == 430:
            p.counters[FLOW_FAILED] += 1
        answer(p, m, from_, status, hop_reason(status), NULL)
    else:
        proceed(p, m, from_, peer, agent, key, &plan, &hop, slot)


cdef void answer_options(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil:
    """A peer asks whether we live (section 11.2): while draining, that it should call elsewhere."""
    if p.view.draining:
        answer(p, m, from_, 503, b"Draining", retry_after(p))
    else:
        answer(p, m, from_, 200, b"OK", b"Accept: application/sdp\r\nAccept-Encoding: identity\r\nSupported:\r\n")


# --- admission, before any state is made

cdef bint is_emergency(const Proxy* p, const ParsedMessage* m) noexcept nogil:
    return m.first[HEADER_RESOURCE_PRIORITY] >= 0 or is_emergency_number(p.view, m.data, m.request_uri.user)


cdef void shed(Proxy* p, const ParsedMessage* m, const Flow* from_, int counter) noexcept nogil:
    p.counters[counter] += 1
    answer(p, m, from_, 503, b"Service Unavailable", retry_after(p))


cdef bint admit(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer) noexcept nogil:
    """New requests only; False: it was answered 503 with Retry-After."""
    cdef int counter
    if p.view.draining:
        counter = SHED_DRAINING
    elif p.overloaded:
        counter = SHED_OVERLOAD
    elif is_scarce(p):
        counter = BOUND_TRANSACTIONS
    elif peer >= 0 and p.view.source_cps > 0 and not allow(
            &p.targets.load[peer].source, p.view.source_cps, max(1.0, p.view.source_cps), p.now):
        counter = SHED_SOURCE
    else:
        return True
    shed(p, m, from_, counter)
    return False


cdef bint admit_to(Proxy* p, const ParsedMessage* m, const Flow* from_, int slot) noexcept nogil:
    """A new request for one destination by name: within its max_calls and max_cps; False: it was answered."""
    if slot < 0 or has_room(&p.targets.load[slot], &p.view.destinations[slot], p.now):
        return True
    shed(p, m, from_, SHED_CAPACITY)
    return False


# --- section 16.6: the response context

cdef void give_up(Proxy* p, uint32_t server, const ParsedMessage* m, int status) noexcept nogil:
    if status == 480:
        answer_kept(p, server, m, 480, b"No Destination", NULL)
    else:
        answer_kept(p, server, m, 503, b"Service Unavailable", retry_after(p))


cdef void proceed(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer, uint64_t agent, const uint64_t* key,
                  const RoutePlan* plan, const Flow* hop, int slot) noexcept nogil:
    """In a dialog, or by an explicit Route: there is one place to go."""
    cdef bint is_new = m.to.tag.length == 0 and plan.token_state != TOKEN_GOOD
    cdef uint32_t server
    if is_new and not is_emergency(p, m) and not (admit(p, m, from_, peer) and admit_to(p, m, from_, slot)):
        return
    server = create_server(p, m, from_, peer, key, call_hash(m))
    if server == 0:
        return
    p.transactions.slab[server].flags |= FIXED
    p.transactions.slab[server].agent = agent
    if is_new and plan.agent:
        p.counters[AGENT_CALLS] += 1
    if is_new and m.method == METHOD_INVITE:
        p.transactions.slab[server].flags |= NEW_CALL
        p.counters[CALLS] += 1
    if attempt(p, server, m, plan, hop, slot):
        schedule(&p.transactions, server)
    else:
        give_up(p, server, m, 503)


cdef void call_agent(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer, uint64_t agent,
                     const uint64_t* key) noexcept nogil:
    """A new request for an address of record of ours: to his phones (section 16.5)."""
    cdef uint32_t server
    if breadth_of(m) == 0:
        answer(p, m, from_, 440, b"Max-Breadth Exceeded", NULL)
        return
    if not is_emergency(p, m) and not admit(p, m, from_, peer):
        return
    server = create_server(p, m, from_, peer, key, call_hash(m))
    if server == 0:
        return
    p.transactions.slab[server].flags |= TO_AGENT
    p.transactions.slab[server].agent = agent
    p.counters[AGENT_CALLS] += 1
    if m.method == METHOD_INVITE:
        p.transactions.slab[server].flags |= NEW_CALL
        p.counters[CALLS] += 1
    if ring(p, server, m):
        schedule(&p.transactions, server)
    else:
        give_up(p, server, m, 503)


cdef void start(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer, uint64_t agent, const uint64_t* key,
                const RoutePlan* plan) noexcept nogil:
    """A new request: admitted, then sent to the destination the policy chooses, or parked for a hook."""
    cdef bint emergency = is_emergency(p, m)
    cdef int side = side_across(p, peer)
    cdef uint64_t tried[4]
    cdef uint64_t call = call_hash(m)
    cdef uint32_t server
    cdef int slot, status = 0
    cdef Transaction* t
    if not emergency and not admit(p, m, from_, peer):
        return
    tried[0] = tried[1] = tried[2] = tried[3] = 0
    slot = choose(&p.targets, p.view, side, call, tried, emergency, p.now)
    if slot < 0:
        if slot == ALL_FULL:
            shed(p, m, from_, SHED_CAPACITY)
        else:
            p.counters[NO_DESTINATION] += 1
            answer(p, m, from_, 480, b"No Destination", NULL)
        return
    server = create_server(p, m, from_, peer, key, call)
    if server == 0:
        return
    t = &p.transactions.slab[server]
    t.agent = agent
    t.side = <unsigned char>side
    t.wanted = <short>slot
    if emergency:
        t.flags |= EMERGENCY_CALL
    if m.method == METHOD_INVITE:
        t.flags |= NEW_CALL
        p.counters[CALLS] += 1
        if p.view.hook:
            park(p, server, m)
            return
    if attempt_next(p, server, m, plan, &status):
        schedule(&p.transactions, server)
    else:
        give_up(p, server, m, status)


cdef void park(Proxy* p, uint32_t server, const ParsedMessage* m) noexcept nogil:
    """A hook is asked; if it is late, the default policy decides (DESIGN section 4)."""
    cdef Transaction* t = &p.transactions.slab[server]
    t.flags |= PARKED
    t.give_up_at = p.now + p.view.hook_timeout
    schedule(&p.transactions, server)
    emit(&p.events, EVENT_ASK, p.now, t.slot, 0, handle_of(&p.transactions, server), 0, m.data, m.size)


cdef void unpark(Proxy* p, uint32_t server) noexcept nogil:
    cdef Transaction* t = &p.transactions.slab[server]
    cdef RoutePlan plan
    cdef int status = 503
    t.flags &= <uint16_t>~<uint16_t>PARKED
    t.give_up_at = 0
    if t.request == NULL or not parse_message(&p.stored, t.request.data, t.request.size):
        return
    # Its Route may be good no more: the keys may have been changed while it waited.
    if preprocess(p, &p.stored, &plan) == 0 and attempt_next(p, server, &p.stored, &plan, &status):
        schedule(&p.transactions, server)
    else:
        give_up(p, server, &p.stored, status)


cdef bint decide(Proxy* p, int64_t handle, int slot) noexcept nogil:
    """A hook's decision for a parked call; -1: the default policy. False: the call waits no more."""
    cdef uint32_t server = index_of(&p.transactions, handle)
    if server == 0 or not p.transactions.slab[server].flags & PARKED:
        return False
    if slot >= 0:
        p.transactions.slab[server].wanted = <short>slot
    unpark(p, server)
    return True


# --- ACK and CANCEL

cdef void receive_ack(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, int peer) noexcept nogil:
    """The ACK of a 3xx-6xx ends here; that of a 2xx goes on without state."""
    cdef Transaction* t
    cdef Cell cell
    if server:
        t = &p.transactions.slab[server]
        cell = machine_step(t.machine, t.state, GOT_ACK)
        if not cell.actions & DO_TELL:
            t.state = cell.state
            if cell.actions & DO_WAIT:
                t.retransmit_at = 0
                t.expire_at = p.now + T4
                release(&p.transactions.pool, &t.response)
                schedule(&p.transactions, server)
            return
    elif is_own_tag(p, m):
        return
    forward_ack(p, m, from_, peer)


cdef void forward_ack(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer) noexcept nogil:
    cdef RoutePlan plan
    cdef Flow hop
    cdef uint64_t* tried = [0, 0, 0, 0]
    cdef int slot = -1, status, number
    if m.size > LARGEST_REQUEST or m.count > MOST_LINES or not validate(p, m, from_):
        return
    status = preprocess(p, m, &plan)
    if status == 403:
        p.counters[BAD_TOKENS] += 1
    if status:
        return
    status = secured(p, m, &hop, next_hop(p, m, &plan, peer, &hop, &slot))
    if status == 0:
        forward_stateless(p, m, from_, &plan, &hop, slot, 0)
    elif status == NEW:
        # The ACK of a 3xx-6xx whose transaction is gone with a gateway: to where its INVITE must have gone.
        for number in range(LIKELY):
            slot = likely_destination(p, m, peer, tried)
            if slot < 0:
                return
            set_hop(p.view, slot, &hop)
            forward_stateless(p, m, from_, &plan, &hop, slot, <uint8_t>number)


cdef int likely_destination(Proxy* p, const ParsedMessage* m, int peer, uint64_t* tried) noexcept nogil:
    """Where a gateway that is gone sent a request of this call, attempt by attempt: choice is deterministic."""
    cdef int slot = choose(&p.targets, p.view, side_across(p, peer), call_hash(m), tried, True, p.now)
    if slot >= 0:
        tried[slot >> 6] |= <uint64_t>1 << (slot & 63)
    return slot


cdef void receive_cancel(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer) noexcept nogil:
    """Section 16.10: 200 at once, CANCEL to every attempt that runs; nothing changes after a final response."""
    cdef uint64_t key[2]
    cdef uint32_t server
    cdef Transaction* t
    p.counters[CANCELS] += 1
    server_key(p.secret, m, True, key)
    server = find(&p.transactions, key)
    if server == 0:
        cancel_elsewhere(p, m, from_, peer)
        return
    answer(p, m, from_, 200, b"OK", NULL)
    t = &p.transactions.slab[server]
    if t.state >= COMPLETED:
        return
    t.flags |= CANCELLED
    if t.flags & PARKED:
        t.flags &= <uint16_t>~<uint16_t>PARKED
        answer_transaction(p, server, 487, b"Request Terminated", NULL)
    else:
        cancel_others(p, server, 0)


cdef void cancel_elsewhere(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer) noexcept nogil:
    """Its INVITE went through a gateway that is gone: what that gateway did can be told from the CANCEL itself."""
    cdef RoutePlan plan
    cdef Flow hop
    cdef uint64_t* tried = [0, 0, 0, 0]
    cdef int slot = -1, status, number
    if not validate(p, m, from_):
        return
    status = preprocess(p, m, &plan)
    if status == 0:
        status = secured(p, m, &hop, next_hop(p, m, &plan, peer, &hop, &slot))
    if (status != 0 and status != NEW) or is_scarce(p):
        answer(p, m, from_, 481, b"Call/Transaction Does Not Exist", NULL)
        return
    answer(p, m, from_, 200, b"OK", NULL)
    if status == 0:
        cancel_restarted(p, m, from_, &hop, slot, 0, &plan)
        return
    if find_target(p, m, &plan, peer) == AGENT_BOUND:
        cancel_rung(p, m, from_)
        return
    # A server that never had it answers 481, which concerns nobody.
    for number in range(LIKELY):
        slot = likely_destination(p, m, peer, tried)
        if slot < 0:
            return
        set_hop(p.view, slot, &hop)
        cancel_restarted(p, m, from_, &hop, slot, <uint8_t>number, &plan)


# --- timers of server transactions

cdef void server_timer(Proxy* p, uint32_t server) noexcept nogil:
    cdef Transaction* t = &p.transactions.slab[server]
    cdef Cell cell
    if t.expire_at and t.expire_at <= p.now:
        # H ends Completed of an INVITE without its ACK; I, J and L end the waiting states.
        destroy(&p.transactions, server)
        return
    if t.give_up_at and t.give_up_at <= p.now:
        t.give_up_at = 0
        if t.flags & PARKED:
            p.counters[HOOK_LATE] += 1
            unpark(p, server)
            return
        if t.flags & WANTS_CREDENTIALS:
            credentials_late(p, server)
            return
        if t.flags & MIRRORED:
            mirror_late(p, server)
            return
        if t.flags & OVERDUE:
            conclude(p, server)
            if t.give_up_at == 0:
                t.flags &= <uint16_t>~<uint16_t>OVERDUE
            return
        answer_transaction(p, server, 100, b"Trying", NULL)  # RFC 4320 section 4.1
    if t.retransmit_at and t.retransmit_at <= p.now and t.state == PROCEEDING:
        t.retransmit_at = 0
        answer_transaction(p, server, 100, b"Trying", NULL)
    elif t.retransmit_at and t.retransmit_at <= p.now:
        cell = machine_step(t.machine, t.state, TIMER_RETRANSMIT)
        if cell.actions & DO_SEND and t.response != NULL:
            outbox_send(&p.outbox, t.response.data, t.response.size, &t.flow)
            p.counters[RETRANSMITTED] += 1
        t.interval = min(t.interval * 2, T2)
        t.retransmit_at += t.interval
    schedule(&p.transactions, server)
