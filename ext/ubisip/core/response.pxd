# SPDX-License-Identifier: Apache-2.0
"""Response processing (RFC 3261 sections 16.7 to 16.9): what becomes of each attempt, and what the caller hears."""
from libc.stdint cimport uint8_t, uint32_t

from ubisip.core.address cimport Address, Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy

cdef void receive_response(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil
cdef void client_timer(Proxy* p, uint32_t client) noexcept nogil
cdef void transport_failed(Proxy* p, const uint8_t* data, uint32_t size, const Address* to) noexcept nogil
cdef void attempt_failed(Proxy* p, uint32_t server, int status, int slot, bint retry) noexcept nogil
cdef void conclude(Proxy* p, uint32_t server) noexcept nogil
cdef void leave_destination(Proxy* p, int slot) noexcept nogil
