# SPDX-License-Identifier: Apache-2.0
"""Client transactions by their timers and by what the transport tells (RFC 3261 sections 16.8, 16.9 and 17.1)."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from ubisip.core.address cimport Address, same_address
from ubisip.core.agents cimport flow_failed, other_flow
from ubisip.core.context cimport attempt_failed, is_servers
from ubisip.core.events cimport EVENT_PROBE, EVENT_REFUSED, EVENT_SILENT, emit
from ubisip.core.forward cimport (
    KEY_CANCEL, KEY_INVITE, KEY_OTHER, KEY_PROBE, attempt_again, fall_back, has_candidate, leave_setup, send_cancel,
)
from ubisip.core.machines cimport (
    CLIENT_INVITE, CLIENT_OTHER, DO_AGAIN, DO_END, DO_SEND, DO_TELL, PROCEEDING, TIMER_RETRANSMIT, TIMER_TIMEOUT,
    TIMER_WAIT, TRANSPORT_ERROR, WRONG, Cell, machine_step,
)
from ubisip.core.message cimport METHOD_BYE
from ubisip.core.mirror cimport mirror_answered
from ubisip.core.outbox cimport outbox_send
from ubisip.core.proxy cimport REFUSED, RETRANSMITTED, SILENT, TIMEOUTS, WRONG_EVENTS, Proxy
from ubisip.core.response cimport ended
from ubisip.core.span cimport span_of
from ubisip.core.timers cimport LIFETIME, T2
from ubisip.core.token cimport BRANCH_LENGTH, Branch, read_branch, read_hex
from ubisip.core.transactions cimport (
    ABANDONED, CANCEL_SENT, MIRRORED, NEW_CALL, PROBE, WANT_CANCEL, Transaction, destroy, find, schedule,
)


cdef extern from * nogil:
    """
    #include <string.h>
    extern void *memmem(const void *, size_t, const void *, size_t);
    """
    void* memmem(const void* data, size_t size, const void* wanted, size_t length) noexcept


cdef void client_timer(Proxy* p, uint32_t client) noexcept nogil:
    cdef Transaction* t = &p.transactions.slab[client]
    if t.expire_at and t.expire_at <= p.now:
        expired(p, client)
        return
    if t.give_up_at and t.give_up_at <= p.now:
        t.give_up_at = 0
        silent(p, client)
    if t.retransmit_at and t.retransmit_at <= p.now:
        retransmit(p, client)
    schedule(&p.transactions, client)


cdef bint is_hopeless(const Proxy* p, const Transaction* t) noexcept nogil:
    """An attempt that was given up, at a destination that looks down: nothing is sent there while it does."""
    return t.flags & ABANDONED != 0 and not (t.slot >= 0 and p.view.destinations[t.slot].usable)


cdef void retransmit(Proxy* p, uint32_t client) noexcept nogil:
    """Timer A doubles without end, Timer E up to T2 (sections 17.1.1.2 and 17.1.2.2)."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef Cell cell = machine_step(t.machine, t.state, TIMER_RETRANSMIT)
    cdef int64_t due = t.retransmit_at
    t.retransmit_at = 0
    if cell.actions & WRONG:
        p.counters[WRONG_EVENTS] += 1
        return
    if cell.actions & DO_SEND and t.request != NULL and not is_hopeless(p, t):
        outbox_send(&p.outbox, t.request.data, t.request.size, &t.flow)
        p.counters[RETRANSMITTED] += 1
    if cell.actions & DO_AGAIN:
        t.interval *= 2
        if t.machine == CLIENT_OTHER and (t.interval > T2 or t.state == PROCEEDING):
            t.interval = T2
        t.retransmit_at = due + t.interval  # from when it was due: lateness does not add up


cdef void silent(Proxy* p, uint32_t client) noexcept nogil:
    """No response at all in first_response_timeout: the next destination is tried, this one no longer waited for."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef int why = 0, slot = t.slot
    if t.status > 100:
        return
    p.counters[SILENT] += 1
    if t.agent:
        silent_flow(p, client)
        return
    emit(&p.events, EVENT_SILENT, p.now, slot, 0, 0, 0, NULL, 0)
    if t.server == 0 or not has_candidate(p, t.server):
        return
    # It is still repeated while the destination looks alive: only an answer, however late, allows its CANCEL.
    t.flags |= ABANDONED | WANT_CANCEL
    leave_setup(p, client)
    if attempt_again(p, t.server, &why):
        if slot >= 0:
            p.targets.load[slot].failovers += 1
    else:
        t.flags &= <uint16_t>~<uint16_t>(ABANDONED | WANT_CANCEL)


cdef void silent_flow(Proxy* p, uint32_t client) noexcept nogil:
    """A phone does not answer: by its other flow, else the server hears at once that this one failed, and a caller is
    left to wait. In a dialog there is no other way, and nobody is told anything yet."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef uint32_t server = t.server
    cdef uint64_t agent = t.agent
    cdef uint32_t reg_id = t.reg_id
    if server == 0 or not p.transactions.slab[server].flags & NEW_CALL:
        return
    t.flags |= ABANDONED | WANT_CANCEL
    if other_flow(p, server, agent, reg_id):
        return
    if is_servers(p, &p.transactions.slab[server]):
        attempt_failed(p, server, 430, -1, False)
    else:
        t.flags &= <uint16_t>~<uint16_t>(ABANDONED | WANT_CANCEL)


cdef void expired(Proxy* p, uint32_t client) noexcept nogil:
    """Timers B and F, C, or the one that ends the transaction."""
    cdef Transaction* t = &p.transactions.slab[client]
    if t.state > PROCEEDING:
        end_client(p, client, TIMER_WAIT, 0)
        return
    if t.machine == CLIENT_INVITE and t.state == PROCEEDING and not t.flags & CANCEL_SENT:
        # Timer C (section 16.8): cancel, and give the 487 its time.
        t.expire_at = p.now + LIFETIME
        send_cancel(p, client)
        if t.flags & CANCEL_SENT:
            schedule(&p.transactions, client)
            return
    end_client(p, client, TIMER_TIMEOUT, 408)


cdef void end_client(Proxy* p, uint32_t client, int happening, int status) noexcept nogil:
    """A client transaction ends by a timer or an error; a failure counts for its server transaction as *status*."""
    cdef Transaction* t = &p.transactions.slab[client]
    cdef Cell cell = machine_step(t.machine, t.state, happening)
    cdef uint32_t server = t.server
    cdef int slot = t.slot
    cdef bint abandoned = t.flags & ABANDONED != 0
    cdef uint64_t agent = t.agent
    cdef uint32_t reg_id = t.reg_id
    if cell.actions & WRONG:
        p.counters[WRONG_EVENTS] += 1
        destroy(&p.transactions, client)
        return
    if not cell.actions & DO_END:
        t.state = cell.state
        return
    if cell.actions & DO_TELL:
        if status == 503 and slot >= 0:
            p.registrar.refused[slot] = True
        if t.flags & MIRRORED:
            if not t.flags & PROBE:
                mirror_answered(p, client, status)
            server = 0
        elif t.flags & PROBE:
            emit(&p.events, EVENT_PROBE, p.now, slot, 0 if status == 408 else -1, <int64_t>t.call, p.now - t.created,
                 NULL, 0)
        else:
            p.counters[TIMEOUTS if status == 408 else REFUSED] += 1
            if status == 503 and agent:
                flow_failed(p, t)
                status = 430
            elif status == 503:
                emit(&p.events, EVENT_REFUSED, p.now, slot, 0, 0, 0, NULL, 0)
    leave_setup(p, client)
    if t.method == METHOD_BYE and cell.actions & DO_TELL:
        ended(p, client)
    destroy(&p.transactions, client)
    if cell.actions & DO_TELL and server and not abandoned and \
            not (agent and status == 430 and other_flow(p, server, agent, reg_id)):
        attempt_failed(p, server, status, slot, True)


cdef void transport_failed(Proxy* p, const uint8_t* data, uint32_t size, const Address* to) noexcept nogil:
    """ICMP quotes the datagram that failed: the branch in it says which attempt counts as a 503 (section 16.9)."""
    cdef uint64_t key[2]
    cdef Branch branch
    cdef const uint8_t* found
    cdef uint32_t client
    cdef bint is_invite = size > 7 and memcmp(data, b"INVITE ", 7) == 0
    cdef bint is_cancel = size > 7 and memcmp(data, b"CANCEL ", 7) == 0
    if size > 8 and memcmp(data, b"SIP/2.0 ", 8) == 0:
        return  # a response that failed ends nothing (RFC 6026 section 7.1)
    found = <const uint8_t*>memmem(data, size, b";branch=z9hG4bK", 15)
    if found == NULL:
        return
    found += 8
    if <uint32_t>(data + size - found) >= BRANCH_LENGTH and read_branch(found, span_of(0, BRANCH_LENGTH), &branch):
        key[0] = branch.mac
        key[1] = KEY_INVITE if is_invite else (KEY_CANCEL if is_cancel else KEY_OTHER)
    elif <uint32_t>(data + size - found) >= 24 and found[7] == 0x70 and read_hex(found + 8, 16, &key[0]):
        key[1] = KEY_PROBE
    else:
        return
    client = find(&p.transactions, key)
    if client and same_address(&p.transactions.slab[client].flow.peer, to) and not fall_back(p, client):
        end_client(p, client, TRANSPORT_ERROR, 503)


cdef void leave_destination(Proxy* p, int slot) noexcept nogil:
    """A destination went down: attempts it has answered with no more than a 100 go on elsewhere, by their timers."""
    cdef uint32_t client
    cdef Transaction* t
    for client in range(1, p.transactions.high + 1):
        t = &p.transactions.slab[client]
        if t.key[1] != KEY_INVITE or t.slot != slot or t.state > PROCEEDING or t.status > 100 or t.server == 0:
            continue
        if t.flags & (ABANDONED | WANT_CANCEL) == 0:
            t.give_up_at = p.now
            schedule(&p.transactions, client)
