# SPDX-License-Identifier: Apache-2.0
"""Registrations passed on to the telephony servers, and servers brought in step (DESIGN section 8).

What a server is told is made from the binding alone: the same REGISTER for a new one, a refreshed one, and all that a
server which came back empty has to be told. Its Path leads back to the flow.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen

from ubisip.core.address cimport ANY_STREAM, write_number
from ubisip.core.bindings cimport (
    GONE, TEXT_AOR, TEXT_CONTACT, TEXT_INSTANCE, Binding, binding_text, bindings_lock, bindings_unlock, is_in_step,
    remove_binding,
)
from ubisip.core.events cimport EVENT_IN_STEP, EVENT_OUT_OF_STEP, emit
from ubisip.core.forward cimport KEY_PROBE
from ubisip.core.machines cimport CLIENT_OTHER
from ubisip.core.message cimport METHOD_REGISTER, ParsedMessage, parse_message
from ubisip.core.outbox cimport outbox_nearly_full, outbox_send
from ubisip.core.proxy cimport BOUND_TRANSACTIONS, MIRRORED_REGISTERS, MIRROR_FAILURES, SHED_REGISTERS, Proxy
from ubisip.core.reply cimport answer_kept, answer_transaction
from ubisip.core.snapshot cimport SWITCH_MAINTENANCE, is_mirror
from ubisip.core.token cimport (
    FLOW_TOKEN_LENGTH, SipHash, siphash_add_number, siphash_end, siphash_init, write_flow_token, write_hex,
)
from ubisip.core.transactions cimport MIRRORED, PROBE, Transaction, adopt, create, keep, schedule

cdef extern from * nogil:
    """
    #include <string.h>
    extern void *memmem(const void *, size_t, const void *, size_t);
    """
    void* memmem(const void* data, size_t size, const void* wanted, size_t length) noexcept

cdef enum:
    QUESTION = MIRRORED | PROBE  # a REGISTER of ours that asks what a server knows
    MIRROR_LIMIT = 2000000   # microseconds that a REGISTER waits for enough servers
    STEP_PAUSE = 10000       # microseconds between two rounds of bringing servers in step
    STEP_LOOKS = 2048        # bindings looked at in a round
    STEP_ASKS = 32           # REGISTERs sent in a round: some 3,000 a second
    ON_THEIR_WAY = 256       # REGISTERs to one server without an answer yet
    ASK_AGAIN = 5000000      # microseconds before a binding that a server did not take is offered again
    ASK_LATEST = 160000000   # the same after many tries
    LONG_PAUSE = 1000000     # microseconds between two rounds when nothing could be told
    HOLD_LEAST = 3000000     # microseconds it gets none anyhow: other gateways notice later that it is back
    HOLD_BACK = 30000000     # microseconds for which a server that came back gets no calls until it is in step
    LOSE_AGAIN = 30000000    # microseconds before a server that was told everything is told anew because it lacks one
    LOOKS = 64               # bindings looked at for one that a server can be asked about
    EPOCH = 1600000000       # CSeq numbers are seconds since then: a gateway that was restarted goes on above its last


cdef uint32_t put(uint8_t* out, uint32_t at, const char* text) noexcept nogil:
    cdef uint32_t length = <uint32_t>strlen(text)
    memcpy(out + at, text, length)
    return at + length


cdef uint32_t put_octets(uint8_t* out, uint32_t at, const void* text, uint32_t length) noexcept nogil:
    memcpy(out + at, text, length)
    return at + length


cdef bint is_plain(uint8_t c) noexcept nogil:
    """unreserved, and what else a user part may hold as it is (RFC 3261 section 25.1)."""
    return 0x30 <= c <= 0x39 or 0x41 <= (c & 0xDF) <= 0x5A or c == 0x2D or c == 0x2E or c == 0x5F or c == 0x21 or \
        c == 0x7E or c == 0x2A or c == 0x27 or c == 0x28 or c == 0x29 or c == 0x26 or c == 0x3D or c == 0x2B or \
        c == 0x24 or c == 0x2C or c == 0x3B or c == 0x3F or c == 0x2F


cdef uint32_t put_aor(uint8_t* out, uint32_t at, const Binding* b) noexcept nogil:
    """<sip:user@domain>, what the key of the address of record holds undone escaped again."""
    cdef uint32_t length, i, sign = 0
    cdef const uint8_t* text = binding_text(b, TEXT_AOR, &length)
    for i in range(length):
        if text[i] == 0x40:
            sign = i
    at = put(out, at, b"<sip:")
    for i in range(length):
        if i >= sign or is_plain(text[i]):
            out[at] = text[i]
            at += 1
        else:
            out[at] = 0x25
            write_hex(text[i], 2, <char*>out + at + 1)
            at += 3
    return put(out, at, b">")


cdef uint32_t put_instance(uint8_t* out, uint32_t at, const Binding* b) noexcept nogil:
    """The phone's instance; one that gives none gets one, the same on every gateway."""
    cdef uint32_t length
    cdef const uint8_t* text = binding_text(b, TEXT_INSTANCE, &length)
    if length:
        return put_octets(out, at, text, length)
    at = put(out, at, b"<urn:uuid:")
    write_hex(b.agent >> 32, 8, <char*>out + at)
    at = put(out, at + 8, b"-")
    write_hex(b.agent >> 16, 4, <char*>out + at)
    at = put(out, at + 4, b"-5000-8000-")
    write_hex(b.agent, 4, <char*>out + at)
    return put(out, at + 4, b"00000000>")


cdef uint32_t flow_number(const Proxy* p, const Binding* b) noexcept nogil:
    """The reg-id that servers are told: a phone without outbound may give two gateways the same Contact, and its flows
    are told apart all the same."""
    return b.reg_id if b.reg_id else p.view.agents.gateway


cdef uint32_t write_head(Proxy* p, uint32_t index, int slot, const char* branch, uint8_t* out) noexcept nogil:
    """A REGISTER for a binding up to its CSeq: without a Contact it asks what the server knows."""
    cdef Binding* b = &p.bindings.slab[index]
    cdef int listener = p.view.destinations[slot].listener
    cdef uint32_t length, at
    cdef const uint8_t* text = binding_text(b, TEXT_AOR, &length)
    cdef uint32_t domain = 0
    while domain < length and text[length - 1 - domain] != 0x40:
        domain += 1
    at = put(out, 0, b"REGISTER sip:")
    at = put_octets(out, at, text + length - domain, domain)
    at = put(out, at, b" SIP/2.0\r\nVia: ")
    at = put_octets(out, at, p.view.listeners[listener].via.text, p.view.listeners[listener].via.length)
    at = put(out, at, b";branch=z9hG4bKp")
    at = put_octets(out, at, branch, 16)
    at = put(out, at, b"\r\nMax-Forwards: 70\r\nFrom: ")
    at = put_aor(out, at, b)
    at = put(out, at, b";tag=u-")
    write_hex(b.agent, 16, <char*>out + at)
    at = put(out, at + 16, b"\r\nTo: ")
    at = put_aor(out, at, b)
    at = put(out, at, b"\r\nCall-ID: u-")
    write_hex(b.agent, 16, <char*>out + at)
    out[at + 16] = 0x2D
    at += 17
    at += write_number(flow_number(p, b), <char*>out + at)
    at = put(out, at, b"\r\nCSeq: ")
    at += write_number(b.sent_cseq, <char*>out + at)
    return put(out, at, b" REGISTER\r\n")


cdef uint32_t write_register(Proxy* p, uint32_t index, int slot, const char* branch, uint8_t* out) noexcept nogil:
    cdef Binding* b = &p.bindings.slab[index]
    cdef int listener = p.view.destinations[slot].listener
    cdef uint32_t length, at = write_head(p, index, slot, branch, out), expires = 0
    cdef const uint8_t* text = binding_text(b, TEXT_CONTACT, &length)
    if not b.flags & GONE:
        expires = <uint32_t>max(1, (b.expires_at - p.now) // 1000000)
    at = put(out, at, b"Contact: <")
    at = put_octets(out, at, text, length)
    at = put(out, at, b">;expires=")
    at += write_number(expires, <char*>out + at)
    if b.q < 1000:
        at = put(out, at, b";q=0.")
        out[at] = <uint8_t>(0x30 + b.q // 100)
        out[at + 1] = <uint8_t>(0x30 + b.q // 10 % 10)
        out[at + 2] = <uint8_t>(0x30 + b.q % 10)
        at += 3
    at = put(out, at, b";+sip.instance=\"")
    at = put_instance(out, at, b)
    at = put(out, at, b"\";reg-id=")
    at += write_number(flow_number(p, b), <char*>out + at)
    at = put(out, at, b"\r\nPath: <sip:")
    write_flow_token(&p.keys, b.agent, b.reg_id, <char*>out + at)
    at = put(out, at + FLOW_TOKEN_LENGTH, b"@")
    at = put_octets(out, at, p.view.listeners[listener].record_route.text,
                    p.view.listeners[listener].record_route.length)
    at = put(out, at, b";lr;ob>\r\nSupported: path, outbound\r\nExpires: ")
    at += write_number(expires, <char*>out + at)
    return put(out, at, b"\r\nContent-Length: 0\r\n\r\n")


cdef uint32_t send_register(Proxy* p, uint32_t index, int slot, bint question) noexcept nogil:
    """Send one server the binding as it stands, or ask for it; gives the transaction, 0: a bound forbids it."""
    cdef Binding* b = &p.bindings.slab[index]
    cdef uint8_t out[4096]
    cdef char branch[16]
    cdef uint64_t key[2]
    cdef SipHash h
    cdef Transaction* t
    cdef uint32_t client, size
    if p.transactions.capacity - p.transactions.used < p.transactions.capacity // 4:
        return 0  # calls go before
    b.sent_cseq = max(b.sent_cseq + 1, <uint32_t>max(1, (p.now + p.view.wall) // 1000000 - EPOCH))
    siphash_init(&h, p.secret)
    siphash_add_number(&h, b.agent ^ b.reg_id)
    siphash_add_number(&h, <uint64_t>b.sent_cseq << 32 | <uint32_t>slot)
    siphash_add_number(&h, <uint64_t>p.now)
    key[0] = siphash_end(&h)
    key[1] = KEY_PROBE
    client = create(&p.transactions, CLIENT_OTHER, key, p.now)
    if client == 0:
        p.counters[BOUND_TRANSACTIONS] += 1
        return 0
    write_hex(key[0], 16, branch)
    if question:
        size = write_head(p, index, slot, branch, out)
        size = put(out, size, b"Supported: path, outbound\r\nContent-Length: 0\r\n\r\n")
    else:
        size = write_register(p, index, slot, branch, out)
    t = &p.transactions.slab[client]
    t.flags = QUESTION if question else MIRRORED
    t.method = METHOD_REGISTER
    t.slot = <short>slot
    t.call = <uint64_t>b.version << 32 | index
    t.agent = b.agent
    t.reg_id = b.reg_id
    t.flow.peer = p.view.destinations[slot].address
    t.flow.listener = p.view.destinations[slot].listener
    t.flow.stream = ANY_STREAM if p.view.destinations[slot].stream else 0
    t.request = keep(&p.transactions.pool, out, size)
    t.t1 = t.interval = <uint32_t>p.view.destinations[slot].t1
    t.retransmit_at = p.now + t.interval if t.flow.stream == 0 else 0
    t.expire_at = p.now + 64 * <int64_t>t.t1
    outbox_send(&p.outbox, out, size, &t.flow)
    schedule(&p.transactions, client)
    return client


cdef bint tell_server(Proxy* p, uint32_t index, int slot, uint32_t server) noexcept nogil:
    """Send one server the binding as it stands, in a client transaction; False: a bound forbids it."""
    cdef uint32_t client = send_register(p, index, slot, False)
    if client == 0:
        return False
    if server:
        adopt(&p.transactions, server, client)
        p.transactions.slab[server].best_status += 1
    p.registrar.asking[slot] += 1
    p.counters[MIRRORED_REGISTERS] += 1
    return True


cdef bint is_told(const Proxy* p, int slot) noexcept nogil:
    """A server that hears of bindings now."""
    return is_mirror(p.view, slot) and p.view.destinations[slot].usable and \
        p.view.destinations[slot].switch != SWITCH_MAINTENANCE


cdef void falls_behind(Proxy* p, int slot) noexcept nogil:
    if not is_mirror(p.view, slot):
        return  # it left while it was asked
    if not p.registrar.lagging[slot]:
        p.registrar.lagging[slot] = True
        p.registrar.lag_since[slot] = p.now
        emit(&p.events, EVENT_OUT_OF_STEP, p.now, slot, 0, 0, 0, NULL, 0)
    if p.registrar.sweep_at == 0:
        p.registrar.patience = ASK_AGAIN
        p.registrar.sweep_at = p.now + STEP_PAUSE


cdef uint32_t mirror_binding(Proxy* p, uint32_t index, uint32_t server) noexcept nogil:
    """Tell every server that lacks the binding as it stands; gives how many were told now."""
    cdef Binding* b = &p.bindings.slab[index]
    cdef uint32_t told = 0
    cdef int slot
    b.asked_at = p.now
    for slot in range(p.view.destination_count):
        if not is_mirror(p.view, slot) or is_in_step(b, slot):
            continue
        if not is_told(p, slot):
            continue  # when it is back it is told everything
        if tell_server(p, index, slot, server if not b.flags & GONE else 0):
            told += not b.flags & GONE
        else:
            falls_behind(p, slot)
    if b.flags & GONE:
        return 0
    # What must be accepted before the agent gets its 200.
    p.transactions.slab[server].wanted += <short>p.view.agents.mirror_quorum
    return max(told, 1)


cdef void wait_for_mirror(Proxy* p, uint32_t server) noexcept nogil:
    """The REGISTER is answered when enough servers have accepted; the lines of its 200 lie in the scratch room."""
    cdef Transaction* t = &p.transactions.slab[server]
    t.flags |= MIRRORED
    t.best = keep(&p.transactions.pool, p.scratch, <uint32_t>strlen(<const char*>p.scratch) + 1)
    t.wanted += 1  # that of a server transaction without a hook's wish is -1
    if t.best_status == 0:
        mirror_late(p, server)
        return
    t.give_up_at = p.now + MIRROR_LIMIT
    schedule(&p.transactions, server)


cdef void mirror_late(Proxy* p, uint32_t server) noexcept nogil:
    """Too few servers have it: the agent comes back; meanwhile he is reached by what he registered here."""
    cdef Transaction* t = &p.transactions.slab[server]
    t.flags &= <unsigned short>~<unsigned short>MIRRORED
    p.counters[SHED_REGISTERS] += 1
    answer_transaction(p, server, 503, b"Service Unavailable", b"Retry-After: 10\r\n")


cdef void accepted_by_server(Proxy* p, uint32_t server) noexcept nogil:
    cdef Transaction* t = &p.transactions.slab[server]
    t.attempt += 1
    if t.flags & MIRRORED and t.attempt >= t.wanted and t.request != NULL and t.best != NULL and \
            parse_message(&p.stored, t.request.data, t.request.size):
        t.flags &= <unsigned short>~<unsigned short>MIRRORED
        answer_kept(p, server, &p.stored, 200, b"OK", <const char*>t.best.data)


cdef uint32_t binding_of(Proxy* p, const Transaction* t) noexcept nogil:
    """The binding that a REGISTER of ours was about, if it still stands as it was sent; 0: it does not."""
    cdef uint32_t index = <uint32_t>t.call
    cdef Binding* b = &p.bindings.slab[index]
    if index == 0 or b.text == NULL or b.agent != t.agent or b.reg_id != t.reg_id or b.version != t.call >> 32:
        return 0
    return index


cdef void mirror_answered(Proxy* p, uint32_t client, int status) noexcept nogil:
    """A server has answered (or not: 408, 503) to a REGISTER of ours."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef uint32_t index = binding_of(p, t), server = t.server
    cdef Binding* b = &p.bindings.slab[index]
    cdef int slot = t.slot
    if p.registrar.asking[slot]:
        p.registrar.asking[slot] -= 1
    if server:
        p.transactions.slab[server].best_status -= 1
    if 200 <= status < 300 or (index and b.flags & GONE and status == 404):
        if index:
            b.in_step[slot >> 6] |= <uint64_t>1 << (slot & 63)
            if p.registrar.asking[slot] == 0 and p.registrar.lagging[slot]:
                p.registrar.sweep_at = min(p.registrar.sweep_at, p.now + STEP_PAUSE) if p.registrar.sweep_at else 0
            forget_if_told(p, index)
        if server:
            accepted_by_server(p, server)
    else:
        p.counters[MIRROR_FAILURES] += 1
        if index:
            falls_behind(p, slot)  # else it has been told something newer meanwhile
    if server and p.transactions.slab[server].flags & MIRRORED and p.transactions.slab[server].best_status == 0:
        mirror_late(p, server)


cdef void forget_if_told(Proxy* p, uint32_t index) noexcept nogil:
    """A binding that was unregistered goes once every server knows."""
    cdef Binding* b = &p.bindings.slab[index]
    cdef int slot
    if not b.flags & GONE:
        return
    for slot in range(p.view.destination_count):
        if is_told(p, slot) and not is_in_step(b, slot):
            return
    bindings_lock(&p.bindings)
    remove_binding(&p.bindings, index)
    bindings_unlock(&p.bindings)


# --- servers that came back

cdef void server_emptied(Proxy* p, int slot) noexcept nogil:
    """A server came back, and may have forgotten everything: every binding is told to it anew, before it takes calls if
    there are others to take them."""
    cdef uint32_t index
    if not is_mirror(p.view, slot) or p.bindings.used == 0:
        return
    for index in range(1, p.bindings.high + 1):
        p.bindings.slab[index].in_step[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
        p.bindings.slab[index].asked_at = 0
    falls_behind(p, slot)
    p.registrar.lag_since[slot] = p.now
    p.registrar.sweep = 0
    p.registrar.sweep_at = p.now
    p.registrar.patience = ASK_AGAIN
    p.targets.load[slot].held_until = p.targets.held_until = p.now + HOLD_BACK


cdef bint lists(const Proxy* p, const ParsedMessage* m, const Binding* b) noexcept nogil:
    """A server's 200 names the binding: its Contact and, where it gives any, its reg-id."""
    cdef uint32_t length, size, at = 0, end
    cdef const uint8_t* text = binding_text(b, TEXT_CONTACT, &length)
    cdef const uint8_t* found
    cdef const uint8_t* number
    cdef uint8_t reg_id[24]
    memset(reg_id, 0, sizeof(reg_id))
    size = put(reg_id, 0, b";reg-id=")
    size += write_number(flow_number(p, b), <char*>reg_id + size)
    while True:
        found = <const uint8_t*>memmem(m.data + at, m.body - at, text, length)
        if found == NULL:
            return False
        at = <uint32_t>(found - m.data) + length
        end = at
        while end < m.body and m.data[end] != 0x2C and m.data[end] != 0x0A:
            end += 1
        if memmem(m.data + at, end - at, b";reg-id=", 8) == NULL:
            return True
        number = <const uint8_t*>memmem(m.data + at, end - at, reg_id, size)
        if number != NULL and not 0x30 <= number[size] <= 0x39:
            return True


cdef void note_listing(Proxy* p, uint32_t client, const ParsedMessage* m) noexcept nogil:
    """A server has answered a REGISTER of ours with a 2xx: it may have lost what it knew without having been missed."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef uint32_t index = binding_of(p, t)
    cdef int slot = t.slot
    if index == 0 or p.bindings.slab[index].flags & GONE:
        return
    if lists(p, m, &p.bindings.slab[index]):
        p.registrar.lists[slot] = True
    elif t.flags & PROBE and p.registrar.lists[slot] and is_in_step(&p.bindings.slab[index], slot) and \
            p.now - p.registrar.lag_since[slot] > LOSE_AGAIN:
        server_emptied(p, slot)


cdef void look_after(Proxy* p, int slot) noexcept nogil:
    """A server that is up is asked whether it still knows one of the bindings that it was told, each time another."""
    cdef uint32_t index = p.registrar.look
    cdef int _looks
    if not is_told(p, slot) or p.registrar.lagging[slot] or p.bindings.used == 0:
        return
    for _looks in range(LOOKS):
        index = index + 1 if index < p.bindings.high else 1
        if p.bindings.slab[index].text != NULL and p.bindings.slab[index].home == 0 and \
                not p.bindings.slab[index].flags & GONE and is_in_step(&p.bindings.slab[index], slot):
            send_register(p, index, slot, True)
            break
    p.registrar.look = index


cdef void all_behind(Proxy* p) noexcept nogil:
    """Bindings were put back after a restart: what servers know of them is not known."""
    cdef int slot
    for slot in range(p.view.destination_count):
        if is_mirror(p.view, slot):
            falls_behind(p, slot)


cdef bint offer(Proxy* p, uint32_t index, bint* lacks) noexcept nogil:
    """Tell those servers that lack a binding; *lacks* notes them by slot. False: it was not asked now."""
    cdef Binding* b = &p.bindings.slab[index]
    cdef bint told = False
    cdef int slot
    for slot in range(p.view.destination_count):
        if not p.registrar.lagging[slot] or is_in_step(b, slot) or not is_told(p, slot):
            continue
        lacks[slot] = True
        if p.registrar.asking[slot] < ON_THEIR_WAY and (b.asked_at == 0 or p.now - b.asked_at >= p.registrar.patience):
            told = tell_server(p, index, slot, 0) or told
    if told:
        b.asked_at = p.now
    return told


cdef int64_t pause(const Proxy* p, bint complete) noexcept nogil:
    """Until the next round: long when all that is left was refused lately."""
    cdef int slot
    if not complete or p.registrar.asked:
        return STEP_PAUSE
    for slot in range(p.view.destination_count):
        if p.registrar.lagging[slot] and p.registrar.asking[slot]:
            return STEP_PAUSE
    return LONG_PAUSE


cdef void settle(Proxy* p, const bint* lacks, bint complete) noexcept nogil:
    """After a round: servers that lack nothing are in step, when the whole table has been looked at."""
    cdef int slot
    cdef bint any_ = False
    for slot in range(p.view.destination_count):
        if p.registrar.lagging[slot] and complete and not lacks[slot] and is_told(p, slot):
            p.registrar.lagging[slot] = False
            if p.targets.load[slot].held_until:
                p.targets.load[slot].held_until = p.registrar.lag_since[slot] + HOLD_LEAST
            emit(&p.events, EVENT_IN_STEP, p.now, slot, 0, 0, p.now - p.registrar.lag_since[slot], NULL, 0)
        any_ = any_ or (p.registrar.lagging[slot] and is_told(p, slot))
    p.registrar.sweep_at = p.now + pause(p, complete) if any_ else 0
    if complete and p.registrar.asked and not p.registrar.fresh:
        p.registrar.patience = min(2 * p.registrar.patience, ASK_LATEST)  # they refuse, or do not hear


cdef void bring_in_step(Proxy* p) noexcept nogil:
    """One round: a few bindings are looked at, and told to the servers that lack them."""
    cdef bint* lacks = p.registrar.lacks
    cdef uint32_t asks = 0, index = p.registrar.sweep
    cdef int _looks
    cdef bint complete = False
    for _looks in range(STEP_LOOKS):
        if index == 0:
            memset(lacks, 0, sizeof(p.registrar.lacks))
            p.registrar.asked = p.registrar.fresh = 0
        index += 1
        if index > p.bindings.high:
            complete = True
            index = 0
            break
        if p.bindings.slab[index].text != NULL and p.bindings.slab[index].home == 0:
            p.registrar.fresh += p.bindings.slab[index].asked_at == 0
            asks += offer(p, index, lacks)
        if asks == STEP_ASKS or outbox_nearly_full(&p.outbox):
            break
    p.registrar.asked += asks
    p.registrar.sweep = index
    settle(p, lacks, complete)
