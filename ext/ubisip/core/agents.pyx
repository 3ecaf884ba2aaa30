# SPDX-License-Identifier: Apache-2.0
"""Requests to agents and from them: the flow a token names, the bindings of an address of record (RFC 5626)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ubisip.core.accounts cimport account_key, find_account
from ubisip.core.address cimport Flow
from ubisip.core.bindings cimport (
    BY_CONTACT, DEAD_FLOW, END_FLOW_LOST, GONE, MAX_AOR, MAX_CONTACT, MAX_PATH, TEXT_CONTACT, TEXT_PATH, Binding,
    aor_hash, binding_text, bindings_lock, bindings_unlock, find_agent, find_flow, first_binding, next_binding,
    next_of_agent, next_of_flow, note_end, way_of,
)
from ubisip.core.contacts cimport canonical_aor
from ubisip.core.forward cimport attempt, breadth_line, cancel_restarted
from ubisip.core.headers cimport NameAddr, parse_name_addr
from ubisip.core.message cimport ParsedMessage, header_value, parse_message
from ubisip.core.proxy cimport FLOWS_LOST, Proxy
from ubisip.core.route cimport RoutePlan, preprocess, resolve
from ubisip.core.snapshot cimport MIRROR_OFF, SIDE_SERVER, is_domain, is_peers
from ubisip.core.span cimport Cursor, cursor, span_of, take_number
from ubisip.core.transactions cimport CANCELLED, PEER_GATEWAY, TO_AGENT, Transaction
from ubisip.core.uri cimport Uri, parse_uri

cdef enum:
    BREADTH = 60             # of a request that says nothing, and the most of any (RFC 5393 section 5.3.3)
    LOOKS = 64               # bindings of one flow that are looked through for the one a request is of


cdef bint is_agent_id(uint64_t id) noexcept nogil:
    """Those of carriers and servers have 32 bits."""
    return id >> 63 != 0


# --- from agents

cdef uint64_t agent_at(const Proxy* p, const ParsedMessage* m, const Flow* flow) noexcept nogil:
    """The agent that registered over this flow, the one that From names if there are several; 0: nobody did."""
    cdef uint32_t index = find_flow(&p.bindings, flow), found = 0, length = 0, user = 0
    cdef uint8_t aor[MAX_AOR]
    cdef uint64_t hash = 0
    cdef int looks = 0
    if index and canonical_aor(p, m.data, m.from_.uri, aor, &length, &user):
        hash = aor_hash(aor, length)
    while index and looks < LOOKS:
        if not p.bindings.slab[index].flags & GONE and p.bindings.slab[index].home == 0:
            if found == 0 or p.bindings.slab[index].aor == hash:
                found = index
            if p.bindings.slab[index].aor == hash:
                break
        index = next_of_flow(&p.bindings, index)
        looks += 1
    return p.bindings.slab[found].agent if found else 0


# --- to agents

cdef bint is_alive(const Binding* b) noexcept nogil:
    return b.text != NULL and not b.flags & (DEAD_FLOW | GONE)


cdef bint is_tried(const Transaction* s, uint64_t agent) noexcept nogil:
    """Which agents' phones were tried: the bits that stand for destinations else hold sixteen marks here."""
    cdef const uint16_t* marks = <const uint16_t*>s.tried
    cdef int i
    for i in range(ROUND_MOST):
        if marks[i] == <uint16_t>agent | 1:
            return True
    return False


cdef bint mark_tried(Transaction* s, uint64_t agent) noexcept nogil:
    """False: as many have been tried as there may be."""
    cdef uint16_t* marks = <uint16_t*>s.tried
    cdef int i
    for i in range(ROUND_MOST):
        if marks[i] == 0:
            marks[i] = <uint16_t>agent | 1
            return True
    return False


cdef bint by_path(Proxy* p, const Binding* b, const uint8_t* text, uint32_t length, Flow* hop) noexcept nogil:
    """The address of the first Path value; never one of our peers': a phone could have itself called at our expense.

    That of a binding which another gateway holds is ours, and leads to that gateway.
    """
    cdef NameAddr value
    cdef Uri uri
    cdef int slot = -1
    return parse_name_addr(text, span_of(0, length), True, &value) and parse_uri(text, value.uri, &uri) and \
        resolve(p, text, &uri, hop, &slot) and (b.home != 0 or (slot < 0 and not is_peers(p.view, &hop.peer)))


cdef void binding_hop(Proxy* p, const Binding* b, Flow* hop) noexcept nogil:
    """Where a request to this binding goes: by its Path, by the Contact's own address, else by its flow."""
    cdef uint8_t text[MAX_PATH + 64]
    cdef uint32_t length
    cdef const uint8_t* part
    cdef Uri uri
    cdef int slot = -1
    memset(text, 0, sizeof(text))
    part = binding_text(b, TEXT_PATH, &length)
    hop[0] = b.flow
    if length:
        memcpy(text, part, length)
        if by_path(p, b, text, length, hop):
            return
    elif b.flags & BY_CONTACT:
        part = binding_text(b, TEXT_CONTACT, &length)
        memcpy(text, part, length)
        if parse_uri(text, span_of(0, length), &uri) and resolve(p, text, &uri, hop, &slot) and slot < 0 and \
                not is_peers(p.view, &hop.peer):
            return
    hop[0] = b.flow


cdef bint was_asked(const Proxy* p, uint32_t server, uint64_t agent, uint32_t way) noexcept nogil:
    """A branch of this request went over that flow."""
    cdef uint32_t client = p.transactions.slab[server].first if server else 0
    while client:
        if p.transactions.slab[client].agent == agent and p.transactions.slab[client].reg_id == way:
            return True
        client = p.transactions.slab[client].sibling
    return False


cdef bint is_nearer(const Binding* a, const Binding* b) noexcept nogil:
    """Our own flows go before those that another gateway holds, then the newer one."""
    if (a.home == 0) != (b.home == 0):
        return a.home == 0
    return a.refreshed_at > b.refreshed_at


cdef uint32_t best_flow(const Proxy* p, uint64_t agent, uint32_t reg_id, bint own) noexcept nogil:
    """Of the flows of an agent that live ours with *reg_id*, else the nearest, of *own* ones only; 0: none."""
    cdef uint32_t index = find_agent(&p.bindings, agent), best = 0
    cdef const Binding* b
    while index:
        b = &p.bindings.slab[index]
        if is_alive(b) and not (own and b.home):
            if way_of(b) == reg_id and reg_id:
                return index
            if best == 0 or is_nearer(b, &p.bindings.slab[best]):
                best = index
        index = next_of_agent(&p.bindings, index)
    return best


cdef uint32_t untried_flow(const Proxy* p, uint32_t server, uint64_t agent, uint32_t but) noexcept nogil:
    """The nearest flow of an agent that lives and that a request was not sent over, nor is *but*; 0: none.

    What another gateway sent goes over flows of ours only: it knows those of the others itself.
    """
    cdef uint32_t index = find_agent(&p.bindings, agent), best = 0
    cdef const Binding* b
    cdef bint own = p.transactions.slab[server].slot == PEER_GATEWAY
    while index:
        b = &p.bindings.slab[index]
        if is_alive(b) and not (own and b.home) and way_of(b) != but and \
                not was_asked(p, server, agent, way_of(b)) and \
                (best == 0 or is_nearer(b, &p.bindings.slab[best])):
            best = index
        index = next_of_agent(&p.bindings, index)
    return best


cdef bint agent_hop(Proxy* p, uint64_t agent, uint32_t reg_id, bint own, RoutePlan* plan, Flow* hop) noexcept nogil:
    """The way to the agent that a token names, over flows of our *own* only; False: none of his flows lives."""
    cdef uint32_t index = best_flow(p, agent, reg_id, own), length
    if index == 0:
        return False
    plan.agent = agent
    plan.reg_id = way_of(&p.bindings.slab[index])
    plan.path = binding_text(&p.bindings.slab[index], TEXT_PATH, &length)
    plan.path_length = length
    binding_hop(p, &p.bindings.slab[index], hop)
    return True


cdef AgentTarget find_target(Proxy* p, const ParsedMessage* m, const RoutePlan* plan, int peer) noexcept nogil:
    """Whether a new request is for an agent: one that a server sends, or any when nothing is mirrored to servers."""
    cdef uint8_t aor[MAX_AOR]
    cdef uint32_t length = 0, user = 0, index
    cdef uint64_t name
    cdef const uint8_t* data = m.data
    cdef bint from_server = peer >= 0 and p.view.destinations[peer].side == SIDE_SERVER
    if not p.view.agents.enabled or not (from_server or p.view.agents.mirror == MIRROR_OFF):
        return NO_AGENT
    if not from_server and not is_domain(p.view, data, plan.request_uri.host):
        return NO_AGENT
    if not canonical_aor(p, data, plan.uri, aor, &length, &user):
        return NO_AGENT
    index = first_binding(&p.bindings, aor_hash(aor, length), aor, length)
    while index:
        if is_alive(&p.bindings.slab[index]):
            return AGENT_BOUND
        index = next_binding(&p.bindings, index)
    name = account_key(&p.accounts, aor, user, <const uint8_t*>p.view.agents.realm.text, p.view.agents.realm.length)
    return AGENT_AWAY if find_account(&p.accounts, name) != NULL else NO_AGENT


cdef uint32_t target_of(const Binding* b, uint8_t* out) noexcept nogil:
    """The Contact as a Request-URI, which has no headers (section 19.1.1); *out* has room for more than MAX_CONTACT."""
    cdef uint32_t length
    cdef const uint8_t* text = binding_text(b, TEXT_CONTACT, &length)
    cdef Uri uri
    memset(out, 0, MAX_CONTACT + 64)
    memcpy(out, text, length)
    return length - uri.headers.length if parse_uri(out, span_of(0, length), &uri) else length


cdef bint ring_binding(Proxy* p, uint32_t server, const ParsedMessage* m, RoutePlan* plan, uint32_t index,
                       bint retarget) noexcept nogil:
    """A branch to one binding; *retarget* puts its Contact into the Request-URI (section 16.6 step 2)."""
    cdef Binding* b = &p.bindings.slab[index]
    cdef uint8_t contact[MAX_CONTACT + 64]
    cdef uint8_t path[MAX_PATH]
    cdef uint32_t length
    cdef const uint8_t* part
    cdef Flow hop
    binding_hop(p, b, &hop)
    plan.agent = b.agent
    plan.reg_id = way_of(b)
    part = binding_text(b, TEXT_PATH, &length)
    memcpy(path, part, length)
    plan.path = path
    plan.path_length = length
    if retarget:
        plan.target = contact
        plan.target_length = target_of(b, contact)
    return attempt(p, server, m, plan, &hop, -1)


cdef int highest(const Proxy* p, const Transaction* s, uint64_t hash, const uint8_t* aor,
                 uint32_t length) noexcept nogil:
    """The highest q among the living bindings that were not tried; -1: there are none."""
    cdef uint32_t index = first_binding(&p.bindings, hash, aor, length)
    cdef int best = -1
    while index:
        if is_alive(&p.bindings.slab[index]) and not is_tried(s, p.bindings.slab[index].agent) and \
                p.bindings.slab[index].q > best:
            best = p.bindings.slab[index].q
        index = next_binding(&p.bindings, index)
    return best


cdef uint32_t breadth_of(const ParsedMessage* m) noexcept nogil:
    """Into how many branches at once a request may be forked, by us and all behind us (RFC 5393 section 5.3.3)."""
    cdef int line = breadth_line(m, -1)
    cdef Cursor c
    cdef uint64_t number = 0
    if line < 0:
        return BREADTH
    c = cursor(m.data, header_value(m, line))
    return <uint32_t>number if take_number(&c, BREADTH, &number) else BREADTH


cdef uint32_t ring(Proxy* p, uint32_t server, const ParsedMessage* m) noexcept nogil:
    """Send a request to all bindings of the highest q at once, one flow of each instance; gives how many (16.6).

    Several reg-ids of an instance are one phone: they are never tried together (RFC 5626 section 7). What Max-Breadth
    does not allow at once comes after the others, one round after the other.
    """
    cdef Transaction* s = &p.transactions.slab[server]
    cdef RoutePlan plan
    cdef uint8_t aor[MAX_AOR]
    cdef uint32_t chosen[ROUND_MOST]
    cdef uint64_t hash, agent
    cdef uint32_t length = 0, user = 0, index, count = 0, number = 0, i, breadth = breadth_of(m)
    cdef int q
    if preprocess(p, m, &plan) != 0 or not canonical_aor(p, m.data, plan.uri, aor, &length, &user):
        return 0
    hash = aor_hash(aor, length)
    q = highest(p, s, hash, aor, length)
    index = first_binding(&p.bindings, hash, aor, length)
    while index and number < min(breadth, ROUND_MOST):
        agent = p.bindings.slab[index].agent
        if p.bindings.slab[index].q == q and is_alive(&p.bindings.slab[index]) and not is_tried(s, agent) and \
                mark_tried(s, agent):
            chosen[number] = best_flow(p, agent, 0, False)
            number += 1
        index = next_binding(&p.bindings, index)
    for i in range(number):
        preprocess(p, m, &plan)
        plan.breadth = breadth // number + (i < breadth % number)
        count += ring_binding(p, server, m, &plan, chosen[i], True)
    return count


cdef bint ring_next(Proxy* p, uint32_t server) noexcept nogil:
    """No branch runs any more: the bindings of the next lower q are tried. False: there are none."""
    cdef Transaction* s = &p.transactions.slab[server]
    if s.flags & CANCELLED or s.request == NULL:
        return False
    return parse_message(&p.stored, s.request.data, s.request.size) and ring(p, server, &p.stored) > 0


cdef bint other_flow(Proxy* p, uint32_t server, uint64_t agent, uint32_t reg_id) noexcept nogil:
    """A flow of an agent failed: another one of his is tried (RFC 5626 section 7). False: none lives."""
    cdef Transaction* s = &p.transactions.slab[server]
    cdef RoutePlan plan
    cdef uint32_t index
    cdef bint by_token
    if s.flags & CANCELLED or s.request == NULL or s.attempt >= ROUND_MOST:
        return False
    index = untried_flow(p, server, agent, reg_id)
    if index == 0 or not parse_message(&p.stored, s.request.data, s.request.size) or \
            preprocess(p, &p.stored, &plan) != 0:
        return False
    by_token = plan.agent != 0 or plan.token_state != 0
    plan.breadth = s.flags & TO_AGENT != 0  # other branches may still use the rest
    plan.number = s.attempt
    return ring_binding(p, server, &p.stored, &plan, index, not by_token)


cdef void flow_failed(Proxy* p, const Transaction* t) noexcept nogil:
    """What was sent over a flow came back: it is dead until its phone registers anew."""
    cdef uint32_t index = find_agent(&p.bindings, t.agent)
    while index and way_of(&p.bindings.slab[index]) != t.reg_id:
        index = next_of_agent(&p.bindings, index)
    if index == 0 or p.bindings.slab[index].flags & (DEAD_FLOW | GONE):
        return
    bindings_lock(&p.bindings)
    p.bindings.slab[index].flags |= DEAD_FLOW
    bindings_unlock(&p.bindings)
    p.counters[FLOWS_LOST] += p.bindings.slab[index].home == 0
    note_end(&p.bindings, index, END_FLOW_LOST, p.now)


cdef uint32_t cancel_rung(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil:
    """A CANCEL whose INVITE a gateway that is gone rang an agent's phones for: to those it must have been; how many."""
    cdef RoutePlan plan
    cdef uint8_t aor[MAX_AOR]
    cdef uint8_t contact[MAX_CONTACT + 64]
    cdef uint32_t length = 0, user = 0, index, count = 0
    cdef Flow hop
    cdef const Binding* b
    if preprocess(p, m, &plan) != 0 or not canonical_aor(p, m.data, plan.uri, aor, &length, &user):
        return 0
    index = first_binding(&p.bindings, aor_hash(aor, length), aor, length)
    while index and count < ROUND_MOST:
        b = &p.bindings.slab[index]
        if is_alive(b) and best_flow(p, b.agent, 0, False) == index:
            binding_hop(p, b, &hop)
            plan.agent = b.agent
            plan.reg_id = way_of(b)
            plan.path = binding_text(b, TEXT_PATH, &plan.path_length)
            plan.target = contact
            plan.target_length = target_of(b, contact)
            cancel_restarted(p, m, from_, &hop, -1, 0, &plan)
            count += 1
        index = next_binding(&p.bindings, index)
    return count
