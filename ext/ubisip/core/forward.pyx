# SPDX-License-Identifier: Apache-2.0
"""Request forwarding (RFC 3261 section 16.6): a client transaction per attempt, its CANCEL and its ACK."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ubisip.core.address cimport ANY_STREAM, Flow, write_number
from ubisip.core.edits cimport delete, edit, edits_clear, edits_growth, insert, insert_span, splice
from ubisip.core.events cimport EVENT_FAILOVER, EVENT_SETUP, EventKind, emit
from ubisip.core.headers cimport NameAddr, parse_name_addr
from ubisip.core.machines cimport CLIENT_INVITE, CLIENT_OTHER, PROCEEDING, SERVER_INVITE
from ubisip.core.identity cimport loop_hash, tag_hash
from ubisip.core.message cimport (
    HEADER_CALL_ID, HEADER_FROM, HEADER_MAX_FORWARDS, HEADER_OTHER, HEADER_RECORD_ROUTE, HEADER_ROUTE, HEADER_TO,
    HEADER_VIA, METHOD_ACK, METHOD_CANCEL, METHOD_INVITE, METHOD_MESSAGE, METHOD_OPTIONS, METHOD_PUBLISH,
    METHOD_REGISTER, ParsedMessage, header_end, header_value, next_header, parse_message,
)
from ubisip.core.outbox cimport outbox_commit, outbox_reserve, outbox_send
from ubisip.core.proxy cimport (
    ABANDONED_CANCELLED, BOUND_EDITS, BOUND_MEMORY, BOUND_TRANSACTIONS, DATAGRAM, FAILOVERS, NO_DESTINATION,
    SHED_CAPACITY, Proxy,
)
from ubisip.core.reply cimport add_content_length, mark_via
from ubisip.core.route cimport RoutePlan, preprocess
from ubisip.core.snapshot cimport TRANSPORT_TCP, Destination, Listener, listener_for, set_hop
from ubisip.core.span cimport Span, same_name, span_of
from ubisip.core.targets cimport ALL_FULL, choose, may_take, take_call
from ubisip.core.timers cimport LIFETIME, T1
from ubisip.core.token cimport (
    BRANCH_LENGTH, TOKEN_LENGTH, Branch, Token, Vouched, read_token, sign_branch, write_branch, write_token,
)
from ubisip.core.transactions cimport (
    ABANDONED, CANCELLED, CANCEL_SENT, EMERGENCY_CALL, FIXED, IN_SETUP, NEW_CALL, OWN_CANCEL, PEER_GATEWAY, TO_AGENT,
    WANT_CANCEL,
    Transaction, adopt, create, find, foresee_transaction, keep, release, schedule,
)
from ubisip.core.uri cimport Uri, parse_uri, uri_parameter


cdef enum:
    LARGEST_BY_UDP = 1300    # octets of a request whose path MTU is unknown (RFC 3261 section 18.1.1)


cdef uint32_t put(char* out, uint32_t at, const char* text, uint32_t length) noexcept nogil:
    memcpy(out + at, text, length)
    return at + length


cdef void delete_parameter(Proxy* p, const ParsedMessage* m, uint32_t name, Span value) noexcept nogil:
    """Delete ";name=value", or ";name" alone; *name* is the length of the name."""
    cdef uint32_t start = value.at - name - 1
    if m.data[value.at - 1] == 0x3D:
        start -= 1
    delete(&p.edits, start, value.at + value.length)


cdef void edit_request_uri(Proxy* p, const ParsedMessage* m, const RoutePlan* plan, int slot) noexcept nogil:
    """Step 2: the target's host and port take the place of ours; what no Request-URI may carry is left out."""
    cdef Span forbidden
    cdef const Destination* destination
    if plan.target != NULL:
        edit(&p.edits, m.uri.at, m.uri.length, <const char*>plan.target, plan.target_length)
        return
    if plan.has_route and not plan.loose:
        edit(&p.edits, m.uri.at, m.uri.length, <const char*>(m.data + plan.route.at), plan.route.length)
        return
    if plan.uri_moved:
        edit(&p.edits, m.uri.at, m.uri.length, <const char*>(m.data + plan.uri.at),
             plan.uri.length - plan.request_uri.headers.length)
        return
    if plan.own and slot >= 0 and not plan.has_route:
        destination = &p.view.destinations[slot]
        edit(&p.edits, plan.request_uri.hostport.at, plan.request_uri.hostport.length, destination.hostport.text,
             destination.hostport.length)
    if plan.request_uri.parameters.length:
        if uri_parameter(m.data, &plan.request_uri, b"method", 6, &forbidden):
            delete_parameter(p, m, 6, forbidden)
        if plan.own_maddr.length:
            delete_parameter(p, m, 5, plan.own_maddr)
    if plan.request_uri.headers.length:
        delete(&p.edits, plan.request_uri.headers.at, plan.request_uri.headers.at + plan.request_uri.headers.length)


cdef void edit_max_forwards(Proxy* p, const ParsedMessage* m, uint32_t at) noexcept nogil:
    """Step 3."""
    cdef char text[16]
    cdef int line = m.first[HEADER_MAX_FORWARDS]
    if line < 0:
        insert(&p.edits, at, b"Max-Forwards: 70\r\n", 18)
    else:
        edit(&p.edits, m.headers[line].value, m.headers[line].value_length, text,
             write_number(<uint32_t>m.max_forwards - 1, text))


cdef void insert_record_route(Proxy* p, uint32_t at, const Listener* listener, const char* token) noexcept nogil:
    cdef char text[256]
    cdef uint32_t n = put(text, 0, b"Record-Route: <sip:", 19)
    n = put(text, n, listener.record_route.text, listener.record_route.length)
    n = put(text, n, b";lr;u=", 6)
    n = put(text, n, token, TOKEN_LENGTH)
    n = put(text, n, b">\r\n", 3)
    insert(&p.edits, at, text, n)


cdef bint makes_dialog(const ParsedMessage* m) noexcept nogil:
    """Outside a dialog every method may make one but those that never do."""
    return m.to.tag.length == 0 and m.method != METHOD_REGISTER and m.method != METHOD_OPTIONS \
        and m.method != METHOD_MESSAGE and m.method != METHOD_PUBLISH and m.method != METHOD_ACK


cdef bint take_token(Proxy* p, const ParsedMessage* m, const RoutePlan* plan, Token* token) noexcept nogil:
    """That of the gateway which sent us the request, for the agent whom we reach: one dialog has one token, so that
    either of us, or any other, routes it alone."""
    cdef int line = m.first[HEADER_RECORD_ROUTE]
    cdef NameAddr value
    cdef Uri uri
    cdef Span text
    return line >= 0 and parse_name_addr(m.data, header_value(m, line), True, &value) and \
        parse_uri(m.data, value.uri, &uri) and uri_parameter(m.data, &uri, b"u", 1, &text) and \
        read_token(&p.keys, m.data, text, m.call_id, token) and token.callee == plan.agent


cdef void edit_record_route(Proxy* p, const ParsedMessage* m, const Flow* from_, int from_slot, uint64_t from_agent,
                            const RoutePlan* plan, const Flow* hop, int slot, uint32_t at) noexcept nogil:
    """Step 4: one value, or two when the sides differ (RFC 5658); both carry the token that routes the dialog."""
    cdef Token token
    cdef char text[TOKEN_LENGTH]
    cdef int line = m.first[HEADER_RECORD_ROUTE]
    if not makes_dialog(m):
        return
    if from_slot != PEER_GATEWAY or not take_token(p, m, plan, &token):
        token.caller = p.view.destinations[from_slot].id if from_slot >= 0 else from_agent
        token.callee = p.view.destinations[slot].id if slot >= 0 else plan.agent
        token.tag = tag_hash(m, m.from_.tag)
        token.caller_listener = from_.listener
        token.callee_listener = hop.listener
    write_token(&p.keys, &token, m.data, m.call_id, text)
    if line >= 0:
        at = m.headers[line].line
    insert_record_route(p, at, &p.view.listeners[hop.listener], text)
    if hop.listener != from_.listener:
        insert_record_route(p, at, &p.view.listeners[from_.listener], text)


cdef void edit_routes(Proxy* p, const ParsedMessage* m, const RoutePlan* plan) noexcept nogil:
    """Steps 6 of section 16.6 and 16.4: the Route values that go on, a line each, where the first line was."""
    cdef int line = m.first[HEADER_ROUTE], i
    cdef bint strict = plan.has_route and not plan.loose
    cdef uint32_t at
    if plan.path_length:
        at = m.headers[m.first[HEADER_VIA]].line
        insert(&p.edits, at, b"Route: ", 7)
        insert(&p.edits, at, <const char*>plan.path, plan.path_length)
        insert(&p.edits, at, b"\r\n", 2)
    if line < 0 or (plan.first == 0 and plan.end == plan.count and not strict):
        return
    at = m.headers[line].line
    for i in range(plan.first + strict, plan.end):
        insert(&p.edits, at, b"Route: ", 7)
        insert_span(&p.edits, at, m.data, plan.routes[i])
        insert(&p.edits, at, b"\r\n", 2)
    if strict:
        insert(&p.edits, at, b"Route: <", 8)
        insert_span(&p.edits, at, m.data, plan.uri)
        insert(&p.edits, at, b">\r\n", 3)
    while line >= 0:
        delete(&p.edits, m.headers[line].line, header_end(m, line))
        line = next_header(m, line)


cdef void insert_via(Proxy* p, uint32_t at, const Listener* listener, const Branch* branch) noexcept nogil:
    """Step 8."""
    cdef char text[192]
    cdef uint32_t n = put(text, 0, b"Via: ", 5)
    n = put(text, n, listener.via.text, listener.via.length)
    n = put(text, n, b";branch=", 8)
    write_branch(branch, text + n)
    n = put(text, n + BRANCH_LENGTH, b"\r\n", 2)
    insert(&p.edits, at, text, n)


cdef void make_branch(Proxy* p, const ParsedMessage* m, const Flow* from_, uint8_t number, int slot,
                      const RoutePlan* plan, Branch* branch) noexcept nogil:
    """The branch is a pure function of the request, the attempt and the destination (DESIGN section 5)."""
    cdef Vouched vouched
    vouched.data = m.data
    vouched.call_id = m.call_id
    vouched.from_tag = m.from_.tag
    vouched.upstream = m.via.branch
    vouched.sent_by = m.via.sent_by
    vouched.cseq = m.cseq
    vouched.invite = m.method == METHOD_INVITE or m.method == METHOD_ACK or m.method == METHOD_CANCEL
    # By the Via alone, as whoever must verify it reads it: a connection's own port may be gone by then.
    vouched.response_to = from_.peer
    if not m.via.has_rport:
        vouched.response_to.port = m.via.port if m.via.port else 5060
    # The branches of a fork differ in their agents, in whatever order these are found.
    branch.attempt = plan.number if plan.agent else number
    branch.listener = from_.listener
    branch.destination = p.view.destinations[slot].id if slot >= 0 else <uint32_t>plan.agent
    branch.loop = loop_hash(m)
    sign_branch(&p.keys, branch, &vouched)


cdef int breadth_line(const ParsedMessage* m, int after) noexcept nogil:
    """The next Max-Breadth behind header line number *after*; -1: there is none."""
    cdef int i
    for i in range(after + 1, m.count):
        if m.headers[i].id == HEADER_OTHER and m.headers[i].name_length == 11 and \
                same_name(m.data, span_of(m.headers[i].line, m.headers[i].line + 11), b"max-breadth", 11):
            return i
    return -1


cdef void edit_breadth(Proxy* p, const ParsedMessage* m, uint32_t breadth, uint32_t at) noexcept nogil:
    """What this branch may fork into, in place of what the request came with (RFC 5393 section 5.3.3)."""
    cdef char text[32]
    cdef int line = breadth_line(m, -1)
    cdef uint32_t n = put(text, 0, b"Max-Breadth: ", 13)
    n += write_number(breadth, text + n)
    insert(&p.edits, at, text, put(text, n, b"\r\n", 2))
    while line >= 0:
        delete(&p.edits, m.headers[line].line, header_end(m, line))
        line = breadth_line(m, line)


cdef uint32_t write_request(Proxy* p, const ParsedMessage* m, const Flow* from_, int from_slot, uint64_t from_agent,
                            const RoutePlan* plan, const Flow* hop, int slot, const Branch* branch,
                            uint8_t** out) noexcept nogil:
    """Splice the request as it goes on into the outbox's room; gives its length, 0 when there is no room for it."""
    cdef uint32_t at = m.headers[m.first[HEADER_VIA]].line
    edits_clear(&p.edits)
    edit_request_uri(p, m, plan, slot)
    insert_via(p, at, &p.view.listeners[hop.listener], branch)
    edit_max_forwards(p, m, at)
    if plan.breadth:
        edit_breadth(p, m, plan.breadth, at)
    edit_record_route(p, m, from_, from_slot, from_agent, plan, hop, slot, at)
    mark_via(m, from_, &p.edits)
    edit_routes(p, m, plan)
    if hop.stream:
        add_content_length(m, &p.edits)
    if p.edits.overflow:
        p.counters[BOUND_EDITS] += 1
        return 0
    out[0] = outbox_reserve(&p.outbox, m.size + edits_growth(&p.edits))
    if out[0] == NULL:
        return 0
    return splice(&p.edits, m.data, m.start, m.size, out[0])


cdef bint over_tcp(const Proxy* p, int slot, Flow* to) noexcept nogil:
    """A request too large for a datagram goes over TCP where the destination listens on it (section 18.1.1)."""
    cdef int listener
    if to.stream or slot < 0 or not p.view.destinations[slot].tcp:
        return False
    listener = listener_for(p.view, &to.peer, to.listener, TRANSPORT_TCP)
    if listener < 0:
        return False
    to.listener = <uint8_t>listener
    to.stream = ANY_STREAM
    return True


cdef bint fall_back(Proxy* p, uint32_t client) noexcept nogil:
    """TCP was refused to a request that went over it for its size alone: the same attempt by datagram (18.1.1)."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef Transaction* s = &p.transactions.slab[t.server]
    cdef RoutePlan plan
    cdef Branch branch
    cdef Flow hop
    cdef uint8_t* out = NULL
    cdef uint32_t size
    if t.server == 0 or t.slot < 0 or t.flow.stream == 0 or not p.view.destinations[t.slot].tcp or t.status or \
            t.request == NULL or t.request.size <= LARGEST_BY_UDP or \
            t.flags & (ABANDONED | WANT_CANCEL) or s.request == NULL or \
            not parse_message(&p.stored, s.request.data, s.request.size) or preprocess(p, &p.stored, &plan) != 0:
        return False
    set_hop(p.view, t.slot, &hop)
    make_branch(p, &p.stored, &s.flow, t.attempt, t.slot, &plan, &branch)
    size = write_request(p, &p.stored, &s.flow, s.slot, s.agent, &plan, &hop, t.slot, &branch, &out)
    if size == 0:
        return False
    release(&p.transactions.pool, &t.request)
    t.request = keep(&p.transactions.pool, out, size)
    if t.request == NULL:
        return False
    outbox_commit(&p.outbox, size, &hop)
    t.flow = hop
    t.retransmit_at = p.now + t.interval
    schedule(&p.transactions, client)
    return True


cdef bint attempt(Proxy* p, uint32_t server, const ParsedMessage* m, const RoutePlan* plan, const Flow* hop,
                  int slot) noexcept nogil:
    """Send the request to one destination through a new client transaction; False: a bound forbids it."""
    cdef Transaction* s = &p.transactions.slab[server]
    cdef Transaction* t
    cdef Branch branch
    cdef Flow to = hop[0]
    cdef uint64_t key[2]
    cdef uint8_t* out = NULL
    cdef uint32_t size, client
    make_branch(p, m, &s.flow, s.attempt, slot, plan, &branch)
    key[0] = branch.mac
    key[1] = KEY_INVITE if s.machine == SERVER_INVITE else KEY_OTHER
    foresee_transaction(&p.transactions, key)
    size = write_request(p, m, &s.flow, s.slot, s.agent, plan, &to, slot, &branch, &out)
    if size > LARGEST_BY_UDP and over_tcp(p, slot, &to):
        size = write_request(p, m, &s.flow, s.slot, s.agent, plan, &to, slot, &branch, &out)
    if size == 0:
        return False
    if find(&p.transactions, key):
        return False  # the same request by another way, still in progress: one branch, one transaction
    client = create(&p.transactions, CLIENT_INVITE if s.machine == SERVER_INVITE else CLIENT_OTHER, key, p.now)
    if client == 0:
        p.counters[BOUND_TRANSACTIONS] += 1
        return False
    t = &p.transactions.slab[client]
    t.request = keep(&p.transactions.pool, out, size)
    if t.request == NULL:
        p.counters[BOUND_MEMORY] += 1
        t.expire_at = p.now + 1  # cannot be repeated: ends at once, unsent
        schedule(&p.transactions, client)
        return False
    outbox_commit(&p.outbox, size, &to)
    t.attempt = s.attempt
    t.method = s.method
    t.slot = <short>slot
    t.agent = plan.agent
    t.reg_id = plan.reg_id
    t.flow = to
    t.call = s.call
    t.cseq = m.cseq
    t.t1 = <uint32_t>(p.view.destinations[slot].t1 if slot >= 0 else T1)
    t.interval = t.t1
    if to.stream == 0:
        t.retransmit_at = p.now + t.interval
    t.expire_at = p.now + 64 * <int64_t>t.t1
    if s.machine == SERVER_INVITE:
        t.give_up_at = p.now + p.view.first_response_timeout
    adopt(&p.transactions, server, client)
    schedule(&p.transactions, client)
    s.attempt += 1
    count_attempt(p, s, t)
    return True


cdef void count_attempt(Proxy* p, Transaction* s, Transaction* t) noexcept nogil:
    if t.slot < 0:
        return
    s.tried[t.slot >> 6] |= <uint64_t>1 << (t.slot & 63)
    if s.flags & NEW_CALL:
        take_call(&p.targets, p.view, t.slot, p.now)
        t.flags |= IN_SETUP
        if p.view.record:
            record_call(p, EVENT_SETUP if t.attempt == 0 else EVENT_FAILOVER, t.slot, 0, s)


cdef void record_call(Proxy* p, int kind, int slot, int status, const Transaction* s) noexcept nogil:
    """A call event with the Call-ID of the kept request."""
    if s.request == NULL or not parse_message(&p.stored, s.request.data, s.request.size):
        return
    emit(&p.events, <EventKind>kind, p.now, slot, status, 0, p.now - s.created, p.stored.data + p.stored.call_id.at,
         p.stored.call_id.length)


cdef void leave_setup(Proxy* p, uint32_t client) noexcept nogil:
    """The INVITE on its way there has ended, one way or the other."""
    cdef Transaction* t = &p.transactions.slab[client]
    if t.flags & IN_SETUP:
        t.flags &= <uint16_t>~<uint16_t>IN_SETUP
        p.targets.load[t.slot].setup -= 1


cdef bint has_candidate(Proxy* p, uint32_t server) noexcept nogil:
    cdef Transaction* s = &p.transactions.slab[server]
    return not s.flags & (FIXED | CANCELLED | TO_AGENT) and s.request != NULL and s.attempt < 255 and \
        choose(&p.targets, p.view, s.side, s.call, s.tried, s.flags & EMERGENCY_CALL != 0, p.now) >= 0


cdef bint attempt_next(Proxy* p, uint32_t server, const ParsedMessage* m, const RoutePlan* plan,
                       int* status) noexcept nogil:
    """Try the request *m* at the next destination; False: there is none, and *status* is what that makes it."""
    cdef Transaction* s = &p.transactions.slab[server]
    cdef Flow hop
    cdef int slot
    if s.wanted >= 0 and may_take(&p.targets, p.view, s.wanted) and s.attempt == 0:
        slot = s.wanted
    else:
        slot = choose(&p.targets, p.view, s.side, s.call, s.tried, s.flags & EMERGENCY_CALL != 0, p.now)
    if slot < 0:
        p.counters[SHED_CAPACITY if slot == ALL_FULL else NO_DESTINATION] += 1
        status[0] = 503 if slot == ALL_FULL else 480
        return False
    set_hop(p.view, slot, &hop)
    status[0] = 503
    return attempt(p, server, m, plan, &hop, slot)


cdef bint attempt_again(Proxy* p, uint32_t server, int* status) noexcept nogil:
    """Failover: the kept request goes to the next destination."""
    cdef Transaction* s = &p.transactions.slab[server]
    cdef RoutePlan plan
    status[0] = 0
    if not has_candidate(p, server) or not parse_message(&p.stored, s.request.data, s.request.size) or \
            preprocess(p, &p.stored, &plan) != 0:
        return False
    if not attempt_next(p, server, &p.stored, &plan, status):
        return False
    p.counters[FAILOVERS] += 1
    return True


cdef void forward_stateless(Proxy* p, const ParsedMessage* m, const Flow* from_, const RoutePlan* plan, const Flow* hop,
                            int slot, uint8_t number) noexcept nogil:
    """An ACK goes on without any state (RFC 3261 section 16.11); the same request always with the same branch."""
    cdef Branch branch
    cdef uint8_t* out = NULL
    cdef uint32_t size
    make_branch(p, m, from_, number, slot, plan, &branch)
    size = write_request(p, m, from_, -1, 0, plan, hop, slot, &branch, &out)
    if size:
        outbox_commit(&p.outbox, size, hop)


cdef uint32_t copy_line(const ParsedMessage* m, int index, uint8_t* out, uint32_t at) noexcept nogil:
    cdef uint32_t length = header_end(m, index) - m.headers[index].line
    memcpy(out + at, m.data + m.headers[index].line, length)
    return at + length


cdef uint32_t build_hop_request(const ParsedMessage* invite, const ParsedMessage* response, const char* method,
                                uint32_t length, uint8_t* out) noexcept nogil:
    """CANCEL (section 9.1) or the ACK of a 3xx-6xx (section 17.1.1.3) for an INVITE of ours: its top Via, its Route."""
    cdef uint32_t at = put(<char*>out, 0, method, length)
    cdef int line = invite.first[HEADER_ROUTE]
    out[at] = 0x20
    at = put(<char*>out, at + 1, <const char*>(invite.data + invite.uri.at), invite.uri.length)
    at = put(<char*>out, at, b" SIP/2.0\r\n", 10)
    at = copy_line(invite, invite.first[HEADER_VIA], out, at)
    while line >= 0:
        at = copy_line(invite, line, out, at)
        line = next_header(invite, line)
    at = copy_line(invite, invite.first[HEADER_FROM], out, at)
    if response == NULL:
        at = copy_line(invite, invite.first[HEADER_TO], out, at)
    else:
        at = copy_line(response, response.first[HEADER_TO], out, at)
    at = copy_line(invite, invite.first[HEADER_CALL_ID], out, at)
    at = put(<char*>out, at, b"CSeq: ", 6)
    at += write_number(invite.cseq, <char*>out + at)
    out[at] = 0x20
    at = put(<char*>out, at + 1, method, length)
    return put(<char*>out, at, b"\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n", 41)


cdef void send_ack(Proxy* p, uint32_t client, const ParsedMessage* response) noexcept nogil:
    """Acknowledge a 3xx-6xx; the ACK takes the place of the INVITE, for retransmitted responses."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef uint8_t* out
    cdef uint32_t size
    if t.request == NULL:
        return
    if t.method == METHOD_ACK:
        outbox_send(&p.outbox, t.request.data, t.request.size, &t.flow)
        return
    if not parse_message(&p.stored, t.request.data, t.request.size):
        return
    out = outbox_reserve(&p.outbox, t.request.size + response.size + 128)
    if out == NULL:
        return
    size = build_hop_request(&p.stored, response, b"ACK", 3, out)
    outbox_commit(&p.outbox, size, &t.flow)
    release(&p.transactions.pool, &t.request)
    t.request = keep(&p.transactions.pool, out, size)
    t.method = METHOD_ACK


cdef void send_cancel_request(Proxy* p, const uint8_t* data, uint32_t size, uint64_t mac, const Flow* hop, uint32_t t1,
                              int slot) noexcept nogil:
    """A CANCEL in its own client transaction; its response concerns nobody."""
    cdef uint64_t key[2]
    cdef uint32_t index
    cdef Transaction* t
    key[0] = mac
    key[1] = KEY_CANCEL
    outbox_send(&p.outbox, data, size, hop)
    if find(&p.transactions, key):
        return
    index = create(&p.transactions, CLIENT_OTHER, key, p.now)
    if index == 0:
        p.counters[BOUND_TRANSACTIONS] += 1
        return
    t = &p.transactions.slab[index]
    t.flags = OWN_CANCEL
    t.method = METHOD_CANCEL
    t.request = keep(&p.transactions.pool, data, size)
    t.flow = hop[0]
    t.slot = <short>slot
    t.t1 = t.interval = t1
    if hop.stream == 0:
        t.retransmit_at = p.now + t1
    t.expire_at = p.now + 64 * <int64_t>t1
    schedule(&p.transactions, index)


cdef void send_cancel(Proxy* p, uint32_t client) noexcept nogil:
    """Cancel one attempt, or as soon as a provisional response allows it (section 9.1)."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef uint8_t* out
    cdef uint32_t size
    if t.machine != CLIENT_INVITE or t.flags & CANCEL_SENT or t.state > PROCEEDING:
        return
    t.flags |= WANT_CANCEL
    if t.state != PROCEEDING or t.request == NULL or not parse_message(&p.stored, t.request.data, t.request.size):
        return
    out = outbox_reserve(&p.outbox, t.request.size + 128)
    if out == NULL:
        return
    size = build_hop_request(&p.stored, NULL, b"CANCEL", 6, out)
    t.flags |= CANCEL_SENT
    t.expire_at = p.now + LIFETIME  # without a final response by then the INVITE counts as cancelled (section 9.1)
    schedule(&p.transactions, client)
    if t.flags & ABANDONED:
        p.counters[ABANDONED_CANCELLED] += 1
    send_cancel_request(p, out, size, t.key[0], &t.flow, t.t1, t.slot)


cdef void cancel_others(Proxy* p, uint32_t server, uint32_t but) noexcept nogil:
    """Section 16.7 step 10: cancel every attempt that still runs, except one."""
    cdef uint32_t client = p.transactions.slab[server].first
    while client:
        if client != but:
            send_cancel(p, client)
        client = p.transactions.slab[client].sibling


cdef void cancel_restarted(Proxy* p, const ParsedMessage* m, const Flow* from_, const Flow* hop, int slot,
                           uint8_t number, const RoutePlan* plan) noexcept nogil:
    """A CANCEL whose INVITE another gateway, or this one before it was restarted, sent on.

    The branch of that INVITE is a function of what the CANCEL repeats, so the server can match it.
    """
    cdef Branch branch
    cdef uint8_t* out = NULL
    cdef uint32_t size
    make_branch(p, m, from_, number, slot, plan, &branch)
    size = write_request(p, m, from_, -1, 0, plan, hop, slot, &branch, &out)
    if size == 0 or size > DATAGRAM:
        return
    # Only our Via goes on, for a CANCEL is hop by hop: what was spliced is read again, away from the outbox's
    # next room.
    memcpy(p.scratch, out, size)
    if not parse_message(&p.stored, p.scratch, size):
        return
    out = outbox_reserve(&p.outbox, size + 128)
    if out != NULL:
        size = build_hop_request(&p.stored, NULL, b"CANCEL", 6, out)
        send_cancel_request(p, out, size, branch.mac, hop, T1, slot)
