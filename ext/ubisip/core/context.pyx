# SPDX-License-Identifier: Apache-2.0
"""The response context of a request (RFC 3261 section 16.7): a server transaction, what it keeps, and how it ends."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ubisip.core.address cimport Flow
from ubisip.core.agents cimport ring_next
from ubisip.core.events cimport EVENT_FAILED
from ubisip.core.forward cimport attempt_again, record_call
from ubisip.core.machines cimport COMPLETED, PROCEEDING, SERVER_INVITE, SERVER_OTHER, TRYING
from ubisip.core.message cimport METHOD_INVITE, METHOD_REGISTER, ParsedMessage
from ubisip.core.outbox cimport outbox_reserve
from ubisip.core.proxy cimport BOUND_MEMORY, BOUND_TRANSACTIONS, FLOW_FAILED, Proxy
from ubisip.core.reply cimport answer, answer_later, answer_transaction, response_flow, retry_after, send_response
from ubisip.core.snapshot cimport SIDE_SERVER
from ubisip.core.timers cimport TRYING_INVITE, TRYING_OTHER
from ubisip.core.transactions cimport (
    ABANDONED, CANCELLED, NEW_CALL, OVERDUE, PEER_GATEWAY, TO_AGENT, Transaction, create, destroy, keep, release,
)

cdef enum:
    SHED_AT = 8              # new calls are refused when less than an eighth of the transactions is free


cdef bint is_scarce(const Proxy* p) noexcept nogil:
    """Less than an eighth of the transactions is free: what is left is for calls that stand."""
    return p.transactions.capacity - p.transactions.used < p.transactions.capacity // SHED_AT


cdef uint32_t create_server(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer, const uint64_t* key,
                            uint64_t call) noexcept nogil:
    """A server transaction that keeps its request; 0: a bound forbids it, and the request was answered 503."""
    cdef Transaction* t
    cdef uint32_t server = create(
        &p.transactions, SERVER_INVITE if m.method == METHOD_INVITE else SERVER_OTHER, key, p.now)
    if server == 0:
        p.counters[BOUND_TRANSACTIONS] += 1
        answer(p, m, from_, 503, b"Service Unavailable", retry_after(p))
        return 0
    t = &p.transactions.slab[server]
    t.request = keep(&p.transactions.pool, m.data, m.size)
    if t.request == NULL:
        destroy(&p.transactions, server)
        p.counters[BOUND_MEMORY] += 1
        answer(p, m, from_, 503, b"Service Unavailable", retry_after(p))
        return 0
    t.flow = response_flow(m, from_)
    t.slot = <short>peer
    t.method = <unsigned char>m.method
    t.call = call
    if m.method == METHOD_INVITE:
        # The 100 waits: mostly something better comes first, and a caller that heard nothing asks again, whatever
        # becomes of us and of the INVITE that we sent on.
        t.state = PROCEEDING
        t.retransmit_at = p.now + TRYING_INVITE
        p.pending += 1
    else:
        t.state = TRYING
        t.give_up_at = p.now + TRYING_OTHER
    return server


# --- how it ends

cdef int rank(int status) noexcept nogil:
    """Order of choice of step 6: a 6xx, then the lowest class, within 4xx what helps the caller most; low is better."""
    if status == 0:
        return 10000
    if status >= 600:
        return 0
    if status == 401 or status == 407 or status == 415 or status == 420 or status == 484:
        return 400
    if status == 503:
        return 599  # of no use upstream: it speaks of one server, not of us
    if status >= 400 and status < 500:
        return 403 if status == 430 else 401 + (status == 408)
    return status // 100 * 100


cdef bint still_running(Proxy* p, uint32_t server) noexcept nogil:
    """An attempt that was not given up waits for its final response."""
    cdef uint32_t client = p.transactions.slab[server].first
    cdef Transaction* t
    while client:
        t = &p.transactions.slab[client]
        if t.state <= PROCEEDING and not t.flags & ABANDONED:
            return True
        client = t.sibling
    return False


cdef void attempt_failed(Proxy* p, uint32_t server, int status, int slot, bint retry) noexcept nogil:
    """One attempt ended without success: try the next destination, or answer when none is left and none still runs."""
    cdef Transaction* s = &p.transactions.slab[server]
    cdef int why = 0
    if slot >= 0:
        p.targets.load[slot].failed += 1
    if s.state >= COMPLETED:
        return
    if rank(status) < rank(s.best_status):
        s.best_status = <uint16_t>status
        release(&p.transactions.pool, &s.best)
    if retry and s.best_status < 600 and attempt_again(p, server, &why):
        if slot >= 0:
            p.targets.load[slot].failovers += 1
        return
    if still_running(p, server):
        return
    if s.flags & TO_AGENT and s.best_status < 600 and ring_next(p, server):
        return
    conclude(p, server)


cdef bint is_servers(const Proxy* p, const Transaction* s) noexcept nogil:
    """It came from a server or a gateway, which can go on after a 430: by the agent's other flow (RFC 5626 11.5)."""
    return s.slot == PEER_GATEWAY or s.slot >= 0 and p.view.destinations[s.slot].side == SIDE_SERVER


cdef void conclude(Proxy* p, uint32_t server) noexcept nogil:
    """Step 6: the best response goes upstream; without any, 408 to an INVITE and silence to others (RFC 4320)."""
    cdef Transaction* s = &p.transactions.slab[server]
    cdef int status = s.best_status
    cdef uint8_t* out
    cdef uint32_t size
    if s.flags & OVERDUE and s.method == METHOD_REGISTER:
        destroy(&p.transactions, server)  # the phone asks again, and is answered by what was made of it
        return
    if s.flags & NEW_CALL and p.view.record and not s.flags & OVERDUE and status >= 300:
        record_call(p, EVENT_FAILED, -1, status, s)
    if s.best != NULL:
        size = s.best.size
        out = outbox_reserve(&p.outbox, size)
        if out != NULL:
            memcpy(out, s.best.data, size)
            send_response(p, server, out, size, 500 if status == 503 else status)
        else:
            answer_later(p, server, status)
    elif s.flags & CANCELLED:
        answer_transaction(p, server, 487, b"Request Terminated", NULL)
    elif status == 480:
        answer_transaction(p, server, 480, b"No Destination", NULL)
    elif status == 430 and is_servers(p, s):
        p.counters[FLOW_FAILED] += 1
        answer_transaction(p, server, 430, b"Flow Failed", NULL)
    elif status == 430:
        answer_transaction(p, server, 480, b"Temporarily Unavailable", NULL)
    elif status == 503 or status == 500:
        answer_transaction(p, server, 500, b"No Destination Reached", NULL)
    elif s.machine == SERVER_INVITE:
        answer_transaction(p, server, 408, b"Request Timeout", NULL)
    else:
        destroy(&p.transactions, server)
