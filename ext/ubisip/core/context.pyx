# SPDX-License-Identifier: Apache-2.0
"""The response context of a request (RFC 3261 section 16.7): a server transaction that keeps what it answers."""
from libc.stdint cimport uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.machines cimport PROCEEDING, SERVER_INVITE, SERVER_OTHER, TRYING
from ubisip.core.message cimport METHOD_INVITE, ParsedMessage
from ubisip.core.proxy cimport BOUND_MEMORY, BOUND_TRANSACTIONS, Proxy
from ubisip.core.reply cimport answer, response_flow, retry_after
from ubisip.core.timers cimport TRYING_INVITE, TRYING_OTHER
from ubisip.core.transactions cimport Transaction, create, destroy, keep

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
