# SPDX-License-Identifier: Apache-2.0
"""The Sans-I/O whole: datagrams in, datagrams out, time as an argument (DESIGN section 2)."""
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

import os
from typing import NamedTuple

from ubisip.core.accounts cimport accounts_close, accounts_open
from ubisip.core.address cimport Address, Flow, address_from_text, address_to_python
from ubisip.core.bindings cimport bindings_close, bindings_open, find_flow
from ubisip.core.digest cimport ALGORITHMS
from ubisip.core.events cimport EVENT_PROBE, emit, events_close, events_open, take_events, take_journal
from ubisip.core.identity cimport server_key
from ubisip.core.machines cimport CLIENT_OTHER, SERVER_INVITE
from ubisip.core.message cimport METHOD_ACK, METHOD_OPTIONS, ParsedMessage, parse_message
from ubisip.core.outbox cimport (
    outbox_clear, outbox_close, outbox_nearly_full, outbox_open, outbox_send,
)
from ubisip.core.proxy cimport (
    COUNTERS, DATAGRAM, KEEP_ALIVES, MALFORMED_DROPPED, MALFORMED_REQUESTS, PDD_BUCKETS, RECEIVED, REQUESTS, RESPONSES,
    STREAMS_CLOSED, Proxy, Received,
)
from ubisip.core.client cimport client_timer, leave_destination, transport_failed
from ubisip.core.forward cimport KEY_PROBE
from ubisip.core.contacts cimport is_for_registrar
from ubisip.core.mirror cimport all_behind, bring_in_step, is_told, server_emptied
from ubisip.core.registrar cimport credentials_failed, credentials_known, expire_bindings, flow_lost
from ubisip.core.reply cimport answer
from ubisip.core.request cimport decide, receive_request, server_timer
from ubisip.core.response cimport receive_response
from ubisip.core.rows cimport ended_letter, read_bindings, restore_bindings, share_binding, shared_letter
from ubisip.core.snapshot cimport DESTINATIONS, PlatformView, Snapshot, find_peer, set_hop
from ubisip.core.stun cimport is_stun, receive_stun
from ubisip.core.targets cimport forget_old_calls, targets_close, targets_open
from ubisip.core.timers cimport NEVER, TICK_BITS, wheel_next, wheel_pop
from ubisip.core.token cimport MAX_KEYS, read_hex
from ubisip.core.transactions cimport (
    PROBE, Transaction, create, find, foresee_transaction, keep, schedule, transactions_close, transactions_open,
)

from ubisip.core.events import EVENT_KINDS, Event
from ubisip.core.response import pdd_bounds

__all__ = ["EVENT_KINDS", "Datagram", "Engine", "Event"]

# In the order of the Counter enum (proxy.pxd).
COUNTER_NAMES = (
    "received", "requests", "responses", "keep_alives", "malformed_requests", "malformed_dropped", "strangers_refused",
    "strangers_dropped", "retransmissions", "retransmitted", "calls", "failovers", "late_answers", "cancels",
    "abandoned_cancelled", "stateless_responses", "forged_responses", "stray_responses", "stranger_responses",
    "bad_tokens", "loops", "shed_draining", "shed_overload", "shed_capacity", "shed_source", "shed_routes",
    "no_destination", "bound_transactions", "bound_memory", "bound_calls", "bound_edits", "timeouts", "refused",
    "silent", "hook_late", "registered", "refreshed", "unregistered", "expired", "flows_lost", "challenged",
    "wrong_passwords", "tries_refused", "replays", "shed_registers", "bound_bindings", "mirrored_registers",
    "mirror_failures", "agent_calls", "flow_failed", "stun", "streams_closed", "wrong_events",
)

cdef enum:
    ACCOUNTS_LEAST = 1 << 17  # users that may be known; four times as many as bindings if that is more
    TIMERS_A_TURN = 256      # so that a burst of timers cannot keep the datagrams waiting


class Datagram(NamedTuple):
    """One datagram to send."""

    data: bytes
    address: tuple
    listener: int
    stream: int = 0


# --- what the worker calls

cdef void set_now(Proxy* p, int64_t now) noexcept nogil:
    p.now = now
    if p.transactions.wheel.armed == 0:
        p.transactions.wheel.soonest = NEVER
        p.transactions.wheel.tick = now >> TICK_BITS  # an empty wheel need not be turned through the idle time
    if p.bindings.wheel.armed == 0:
        p.bindings.wheel.soonest = NEVER
        p.bindings.wheel.tick = now >> TICK_BITS


cdef bint is_keep_alive(const uint8_t* data, uint32_t size) noexcept nogil:
    cdef uint32_t i
    for i in range(size):
        if data[i] != 0x0D and data[i] != 0x0A and data[i] != 0:
            return False
    return True


cdef void refuse_malformed(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil:
    """The answer that a fault calls for; responses, ACKs, and what shows no way back are dropped."""
    if not m.is_request or m.method == METHOD_ACK or not m.via_sound or m.start_end == 0 or \
            not (find_peer(p.view, from_) >= 0 or find_flow(&p.bindings, from_) or is_for_registrar(p, m)):
        p.counters[MALFORMED_DROPPED] += 1
        return
    p.counters[MALFORMED_REQUESTS] += 1
    answer(p, m, from_, m.error, m.error_reason, NULL)


cdef void engine_read(Proxy* p, int place, const uint8_t* data, uint32_t size) noexcept nogil:
    """Parse a datagram; its transaction's place in the table is then on its way into the cache. *data* is readable for
    SCAN_PADDING octets beyond *size*."""
    cdef Received* received = &p.received[place]
    received.sound = parse_message(&received.message, data, size)
    if received.sound and received.message.is_request:
        server_key(p.secret, &received.message, False, received.key)
        foresee_transaction(&p.transactions, received.key)


cdef void engine_handle(Proxy* p, int place, const uint8_t* data, uint32_t size, const Flow* from_,
                        int64_t now) noexcept nogil:
    """The rest of a datagram's way through the core, once it was read."""
    cdef Received* received = &p.received[place]
    set_now(p, now)
    p.counters[RECEIVED] += 1
    if memcmp(data, b"REGISTER ", 9) != 0:
        p.hurried = True
    if is_keep_alive(data, size):
        p.counters[KEEP_ALIVES] += 1
    elif is_stun(data, size):
        receive_stun(p, data, size, from_)
    elif not received.sound:
        refuse_malformed(p, &received.message, from_)
    elif received.message.is_request:
        p.counters[REQUESTS] += 1
        receive_request(p, received, from_)
    else:
        p.counters[RESPONSES] += 1
        receive_response(p, &received.message, from_)


cdef void engine_receive(Proxy* p, const uint8_t* data, uint32_t size, const Flow* from_, int64_t now) noexcept nogil:
    """The whole way of a datagram that comes alone."""
    engine_read(p, 0, data, size)
    engine_handle(p, 0, data, size, from_, now)


cdef bint engine_advance(Proxy* p, int64_t now) noexcept nogil:
    """Fire what is due; True: more is due, send the outbox first and come again."""
    cdef uint32_t index
    cdef int _fired
    cdef bint more = False
    set_now(p, now)
    if now - p.swept > 1000000:
        p.swept = now
        forget_old_calls(&p.targets, now)
    if p.bindings.used:
        more = expire_bindings(p)
        if p.registrar.sweep_at and p.registrar.sweep_at <= now:
            bring_in_step(p)
    for _fired in range(TIMERS_A_TURN):
        if outbox_nearly_full(&p.outbox):
            return True
        index = wheel_pop(&p.transactions.wheel, now)
        if index == 0:
            return more
        if p.transactions.slab[index].machine >= SERVER_INVITE:
            server_timer(p, index)
        else:
            client_timer(p, index)
    return True


cdef int64_t engine_next_timer(const Proxy* p) noexcept nogil:
    cdef int64_t due = wheel_next(&p.transactions.wheel), other
    if p.bindings.used == 0:
        return due
    other = wheel_next(&p.bindings.wheel)
    if p.registrar.sweep_at:
        other = min(other, p.registrar.sweep_at) if other >= 0 else p.registrar.sweep_at
    return other if due < 0 or 0 <= other < due else due


cdef void engine_swap(Proxy* p, const PlatformView* view, int64_t now) noexcept nogil:
    """Use another snapshot; what has gone down since the last one is left by the attempts that wait for it."""
    cdef const PlatformView* before = p.view
    cdef bint heard[DESTINATIONS]
    cdef int slot
    set_now(p, now)
    for slot in range(view.destination_count):
        heard[slot] = is_told(p, slot)
    p.view = view
    p.bindings.wall = view.wall
    for slot in range(view.destination_count):
        if is_told(p, slot) and not heard[slot]:
            server_emptied(p, slot)
    p.transactions.pool.most = view.max_memory
    for slot in range(before.destination_count):
        if before.destinations[slot].present and before.destinations[slot].usable and \
                not (view.destinations[slot].present and view.destinations[slot].usable):
            leave_destination(p, slot)


cdef void engine_probe(Proxy* p, int slot, const uint8_t* data, uint32_t size, int64_t handle, int64_t timeout,
                       int64_t now) noexcept nogil:
    """Send an OPTIONS of ours in its own client transaction; its branch is "z9hG4bKp" and 16 hex digits."""
    cdef uint64_t key[2]
    cdef uint32_t index
    cdef Transaction* t
    set_now(p, now)
    key[1] = KEY_PROBE
    if not p.view.destinations[slot].present or not parse_message(&p.stored, data, size) \
            or p.stored.via.branch.length != 24 \
            or not read_hex(data + p.stored.via.branch.at + 8, 16, &key[0]) or find(&p.transactions, key):
        emit(&p.events, EVENT_PROBE, now, slot, 0, handle, 0, NULL, 0)
        return
    index = create(&p.transactions, CLIENT_OTHER, key, now)
    if index == 0:
        emit(&p.events, EVENT_PROBE, now, slot, 0, handle, 0, NULL, 0)
        return
    t = &p.transactions.slab[index]
    t.flags = PROBE
    t.method = METHOD_OPTIONS
    t.call = <uint64_t>handle
    t.slot = <short>slot
    set_hop(p.view, slot, &t.flow)
    t.request = keep(&p.transactions.pool, data, size)
    t.t1 = t.interval = <uint32_t>p.view.destinations[slot].t1
    t.retransmit_at = now + t.interval if t.flow.stream == 0 else 0
    t.expire_at = now + timeout
    outbox_send(&p.outbox, data, size, &t.flow)
    schedule(&p.transactions, index)


cdef void engine_transport_error(Proxy* p, const uint8_t* data, uint32_t size, const Address* to,
                                 int64_t now) noexcept nogil:
    set_now(p, now)
    transport_failed(p, data, size, to)


cdef void engine_stream_closed(Proxy* p, uint32_t stream, int64_t now) noexcept nogil:
    """Connection number *stream* has ended; its number is not given out again."""
    set_now(p, now)
    p.counters[STREAMS_CLOSED] += 1
    flow_lost(p, stream)


cdef void engine_credentials(Proxy* p, const uint8_t* data, uint32_t size, int has, bint failed, int64_t lifetime,
                             int64_t now) noexcept nogil:
    """What was found out about a user: two lengths of 16 bits, 96 octets of digests, his name, the realm."""
    cdef uint32_t user = <uint32_t>data[0] << 8 | data[1], realm = <uint32_t>data[2] << 8 | data[3]
    set_now(p, now)
    if 100 + user + realm != size:
        return
    if failed:
        credentials_failed(p, data + 100, user, realm)
    else:
        credentials_known(p, data + 100, user, realm, data + 4, has, lifetime)


cdef bint engine_decide(Proxy* p, int64_t handle, int slot, int64_t now) noexcept nogil:
    set_now(p, now)
    return decide(p, handle, slot)


# --- the Python face, for tests, simulations and benchmarks

cdef int64_t to_us(double seconds) noexcept nogil:
    return <int64_t>(seconds * 1e6 + 0.5)


cdef set_key_ring(Proxy* p, keys):
    """:raises ValueError: no key, or one that is not 16 octets."""
    cdef bytes key
    cdef int i
    if not 1 <= len(keys) <= MAX_KEYS or any(len(key) != 16 for key in keys):
        raise ValueError(f"a key ring has 1 to {MAX_KEYS} keys of 16 octets")
    for i, key in enumerate(keys):
        memcpy(p.keys.key[i], <const char*>key, 16)
    p.keys.count = len(keys)


cdef Proxy* open_proxy(Snapshot snapshot, keys, int64_t now) except NULL:
    cdef Proxy* p = <Proxy*>calloc(1, sizeof(Proxy))
    cdef bytes secret = os.urandom(16)
    if p == NULL:
        raise MemoryError
    p.view = snapshot.view
    memcpy(p.secret, <const char*>secret, 16)
    if not (transactions_open(&p.transactions, snapshot.view.max_transactions, now)
            and targets_open(&p.targets, snapshot.view.max_calls) and outbox_open(&p.outbox)
            and events_open(&p.events) and events_open(&p.streams) and events_open(&p.journal)
            and bindings_open(&p.bindings, snapshot.view.agents.max_bindings or 1, snapshot.view.agents.max_shared, now)
            and accounts_open(&p.accounts, max(ACCOUNTS_LEAST, 4 * snapshot.view.agents.max_bindings))):
        close_proxy(p)
        raise MemoryError
    p.transactions.pool.most = snapshot.view.max_memory
    memcpy(p.bindings.secret, <const char*>secret, 16)
    memcpy(p.accounts.secret, <const char*>secret, 16)
    p.bindings.wall = snapshot.view.wall
    p.bindings.journal = &p.journal
    p.registrar.algorithms = (1 << ALGORITHMS) - 1
    try:
        set_key_ring(p, keys)
    except ValueError:
        close_proxy(p)
        raise
    return p


cdef void close_proxy(Proxy* p) noexcept:
    if p != NULL:
        transactions_close(&p.transactions)
        targets_close(&p.targets)
        outbox_close(&p.outbox)
        events_close(&p.events)
        events_close(&p.streams)
        events_close(&p.journal)
        bindings_close(&p.bindings)
        accounts_close(&p.accounts)
        free(p)


cdef dict destination_statistics(Proxy* p):
    cdef int slot
    return {
        slot: {
            "calls": p.targets.load[slot].calls, "setup": p.targets.load[slot].setup,
            "attempts": p.targets.load[slot].attempts, "answered": p.targets.load[slot].answered,
            "failed": p.targets.load[slot].failed, "failovers": p.targets.load[slot].failovers,
            "successes": p.targets.load[slot].successes,
        }
        for slot in range(DESTINATIONS) if p.view.destinations[slot].present or p.targets.load[slot].attempts
    }


cdef dict proxy_statistics(Proxy* p):
    """Read without a lock while the worker writes: each number is whole, their moment differs by a little."""
    cdef int i
    counters = {COUNTER_NAMES[i]: p.counters[i] for i in range(COUNTERS)}
    counters["outbox_overflow"] = p.outbox.overflow
    counters["events_lost"] = p.events.lost
    counters["stream_messages_lost"] = p.streams.lost
    return {
        "counters": counters,
        "responses": {f"{i}xx": p.responses[i] for i in range(1, 7)},
        "transactions": p.transactions.used,
        "memory": p.transactions.pool.memory,
        "buffers": p.transactions.pool.out,
        "pending": p.pending,
        "calls": p.targets.call_count,
        "bindings": p.bindings.used - p.bindings.gone - p.bindings.shared,
        "shared_bindings": p.bindings.shared,
        "agents": p.bindings.agents,
        "pdd": {
            "buckets": [(pdd_bounds[i], p.pdd.bucket[i]) for i in range(PDD_BUCKETS)],
            "sum": p.pdd.sum / 1e6, "count": p.pdd.count,
        },
        "destinations": destination_statistics(p),
    }


cdef engine_restore(Proxy* p, rows, int64_t now):
    """Put back the bindings of an earlier process; gives how many. What a row left behind stays.

    :raises ValueError: a row is none of ours.
    """
    set_now(p, now)
    try:
        return restore_bindings(&p.bindings, rows, p.view.listener_count, now)
    finally:
        if p.bindings.used:
            all_behind(p)


cdef void engine_share(Proxy* p, const uint8_t* letter, int64_t now) noexcept nogil:
    """What another gateway told of a binding that it holds."""
    set_now(p, now)
    share_binding(p, letter)


cdef tuple credential_letter(str user, str realm, bytes md5, bytes sha256, bytes sha512_256, bint known):
    """As engine_credentials() reads it, with the algorithms there are.

    :raises ValueError: a digest is not as long as its algorithm's.
    """
    cdef bytes name = user.encode("utf-8", "surrogateescape"), where = realm.encode("utf-8", "surrogateescape")
    if len(md5) not in (0, 16) or len(sha256) not in (0, 32) or len(sha512_256) not in (0, 32):
        raise ValueError("HA1 digests have 16, 32 and 32 octets, or none")
    if len(name) > 512 or len(where) > 512:
        raise ValueError("no user or realm is that long")
    has = sum(1 << number for number, each in enumerate((md5, sha256, sha512_256)) if each) if known else 0
    digests = md5.ljust(32, b"\0") + sha256.ljust(32, b"\0") + sha512_256.ljust(32, b"\0")
    return len(name).to_bytes(2, "big") + len(where).to_bytes(2, "big") + digests + name + where, has


cdef class Engine:
    """The Sans-I/O whole of SIP: datagrams in, datagrams out, time as an argument."""

    def __cinit__(self, Snapshot snapshot not None, keys):
        self.proxy = open_proxy(snapshot, keys, 0)
        self.snapshot = snapshot

    def __dealloc__(self):
        close_proxy(self.proxy)

    def receive(self, bytes data not None, tuple source not None, int listener, double now, uint32_t stream=0):
        cdef Flow flow
        cdef uint32_t size = <uint32_t>len(data)
        if size >= DATAGRAM:
            raise ValueError("no UDP datagram is that long")
        memset(&flow, 0, sizeof(Flow))
        if not address_from_text(source[0], source[1], &flow.peer):
            raise ValueError(f"{source[0]} is no address")
        flow.listener = <uint8_t>listener
        flow.stream = stream
        memcpy(self.proxy.datagram, <const char*>data, size)
        memset(self.proxy.datagram + size, 0, 64)
        with nogil:
            engine_receive(self.proxy, self.proxy.datagram, size, &flow, to_us(now))

    def advance(self, double now):
        cdef int64_t moment = to_us(now)
        while engine_advance(self.proxy, moment):
            if outbox_nearly_full(&self.proxy.outbox):
                return

    def next_timer(self):
        cdef int64_t due = engine_next_timer(self.proxy)
        return None if due < 0 else due / 1e6

    def outbox(self):
        cdef uint32_t i
        taken = [
            Datagram((<const char*>self.proxy.outbox.datagrams[i].data)[:self.proxy.outbox.datagrams[i].size],
                     address_to_python(&self.proxy.outbox.datagrams[i].to.peer),
                     self.proxy.outbox.datagrams[i].to.listener, self.proxy.outbox.datagrams[i].to.stream)
            for i in range(self.proxy.outbox.count)
        ]
        outbox_clear(&self.proxy.outbox)
        return taken

    def transport_error(self, bytes data not None, tuple address not None, double now):
        cdef Address to
        if not address_from_text(address[0], address[1], &to):
            raise ValueError(f"{address[0]} is no address")
        engine_transport_error(self.proxy, <const uint8_t*><const char*>data, <uint32_t>len(data), &to, to_us(now))

    def stream_closed(self, uint32_t stream, double now):
        engine_stream_closed(self.proxy, stream, to_us(now))

    def swap(self, Snapshot snapshot not None, double now):
        engine_swap(self.proxy, snapshot.view, to_us(now))
        self.snapshot = snapshot

    def set_keys(self, keys):
        set_key_ring(self.proxy, keys)

    def decide(self, int64_t handle, int destination, double now):
        return bool(engine_decide(self.proxy, handle, destination, to_us(now)))

    def probe(self, int destination, bytes data not None, int64_t handle, double timeout, double now):
        cdef uint32_t size = <uint32_t>len(data)
        if size >= DATAGRAM or not 0 <= destination < DESTINATIONS:
            raise ValueError("no such destination, or too long a request")
        memcpy(self.proxy.datagram, <const char*>data, size)
        memset(self.proxy.datagram + size, 0, 64)
        engine_probe(self.proxy, destination, self.proxy.datagram, size, handle, to_us(timeout), to_us(now))

    def events(self):
        return take_events(&self.proxy.events)

    def statistics(self):
        return proxy_statistics(self.proxy)

    def credential(self, str user, str realm, bytes md5, bytes sha256, bytes sha512_256, bint known, double lifetime,
                   double now):
        cdef bytes letter
        cdef int has
        cdef int64_t microseconds = 0 if lifetime == INFINITY else max(1, to_us(lifetime))
        letter, has = credential_letter(user, realm, md5, sha256, sha512_256, known)
        engine_credentials(self.proxy, <const uint8_t*><const char*>letter, <uint32_t>len(letter), has, False,
                           microseconds, to_us(now))

    def credential_failed(self, str user, str realm, double now):
        cdef bytes letter = credential_letter(user, realm, b"", b"", b"", False)[0]
        engine_credentials(self.proxy, <const uint8_t*><const char*>letter, <uint32_t>len(letter), 0, True, 0,
                           to_us(now))

    def take_journal(self):
        return take_journal(&self.proxy.journal)

    def bindings(self, uint32_t after, uint32_t limit, double now, uint32_t home=0):
        return read_bindings(&self.proxy.bindings, after, limit, home)

    def share(self, row, uint32_t home, str hop, double now):
        engine_share(self.proxy, shared_letter(row, home, hop), to_us(now))

    def end_shared(self, str aor, str contact, str instance, uint32_t reg_id, uint32_t home, double now):
        engine_share(self.proxy, ended_letter(aor, contact, instance, reg_id, home), to_us(now))

    def restore(self, rows, double now):
        return engine_restore(self.proxy, rows, to_us(now))

    def set_overloaded(self, bint overloaded):
        """What the worker does when it cannot keep up: new calls are shed until it says otherwise."""
        self.proxy.overloaded = overloaded
