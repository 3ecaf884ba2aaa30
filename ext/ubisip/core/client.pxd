# SPDX-License-Identifier: Apache-2.0
"""Client transactions by their timers and by what the transport tells (RFC 3261 sections 16.8, 16.9 and 17.1)."""
from libc.stdint cimport uint8_t, uint32_t

from ubisip.core.address cimport Address
from ubisip.core.proxy cimport Proxy

cdef void client_timer(Proxy* p, uint32_t client) noexcept nogil
cdef void transport_failed(Proxy* p, const uint8_t* data, uint32_t size, const Address* to) noexcept nogil
cdef void leave_destination(Proxy* p, int slot) noexcept nogil
