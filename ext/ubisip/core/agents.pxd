# SPDX-License-Identifier: Apache-2.0
"""Requests to agents and from them: the flow a token names, the bindings of an address of record (RFC 5626)."""
from libc.stdint cimport uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy
from ubisip.core.route cimport RoutePlan
from ubisip.core.transactions cimport Transaction

cdef enum:
    ROUND_MOST = 16          # bindings that ring for one request in all

cdef enum AgentTarget:
    NO_AGENT                 # the request is for somebody else
    AGENT_BOUND
    AGENT_AWAY               # one of ours, without a binding

cdef bint is_agent_id(uint64_t id) noexcept nogil
cdef uint64_t agent_at(const Proxy* p, const ParsedMessage* m, const Flow* flow) noexcept nogil
cdef bint agent_hop(Proxy* p, uint64_t agent, uint32_t reg_id, bint own, RoutePlan* plan, Flow* hop) noexcept nogil
cdef AgentTarget find_target(Proxy* p, const ParsedMessage* m, const RoutePlan* plan, int peer) noexcept nogil
cdef uint32_t breadth_of(const ParsedMessage* m) noexcept nogil
cdef uint32_t ring(Proxy* p, uint32_t server, const ParsedMessage* m) noexcept nogil
cdef bint ring_next(Proxy* p, uint32_t server) noexcept nogil
cdef bint other_flow(Proxy* p, uint32_t server, uint64_t agent, uint32_t reg_id) noexcept nogil
cdef uint32_t cancel_rung(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil
cdef void flow_failed(Proxy* p, const Transaction* t) noexcept nogil
