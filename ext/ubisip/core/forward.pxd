# SPDX-License-Identifier: Apache-2.0
"""Request forwarding (RFC 3261 section 16.6): a client transaction per attempt, its CANCEL and its ACK."""
from libc.stdint cimport uint8_t, uint32_t

from ubisip.core.address cimport Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy
from ubisip.core.route cimport RoutePlan
from ubisip.core.token cimport Branch
from ubisip.core.transactions cimport Transaction

cdef enum KeyKind:
    KEY_INVITE = 1           # with a branch's MAC: which client transaction of a branch
    KEY_CANCEL = 2
    KEY_OTHER = 3
    KEY_PROBE = 4

cdef int breadth_line(const ParsedMessage* m, int after) noexcept nogil
cdef bint attempt(Proxy* p, uint32_t server, const ParsedMessage* m, const RoutePlan* plan, const Flow* hop,
                  int slot) noexcept nogil
cdef bint attempt_next(Proxy* p, uint32_t server, const ParsedMessage* m, const RoutePlan* plan,
                       int* status) noexcept nogil
cdef bint attempt_again(Proxy* p, uint32_t server, int* status) noexcept nogil
cdef bint has_candidate(Proxy* p, uint32_t server) noexcept nogil
cdef bint fall_back(Proxy* p, uint32_t client) noexcept nogil
cdef void forward_stateless(Proxy* p, const ParsedMessage* m, const Flow* from_, const RoutePlan* plan, const Flow* hop,
                            int slot, uint8_t number) noexcept nogil
cdef void send_cancel(Proxy* p, uint32_t client) noexcept nogil
cdef void send_ack(Proxy* p, uint32_t client, const ParsedMessage* response) noexcept nogil
cdef void cancel_others(Proxy* p, uint32_t server, uint32_t but) noexcept nogil
cdef void cancel_restarted(Proxy* p, const ParsedMessage* m, const Flow* from_, const Flow* hop, int slot,
                           uint8_t number, const RoutePlan* plan) noexcept nogil
cdef void leave_setup(Proxy* p, uint32_t client) noexcept nogil
cdef void record_call(Proxy* p, int kind, int slot, int status, const Transaction* s) noexcept nogil
