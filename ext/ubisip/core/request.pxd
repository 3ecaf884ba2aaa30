# SPDX-License-Identifier: Apache-2.0
"""Request processing (RFC 3261 sections 16.3 to 16.6, 16.10): from a datagram to a response context."""
from libc.stdint cimport int64_t, uint32_t

from ubisip.core.address cimport Flow
from ubisip.core.proxy cimport Proxy, Received

cdef void receive_request(Proxy* p, const Received* received, const Flow* from_) noexcept nogil
cdef bint decide(Proxy* p, int64_t handle, int slot) noexcept nogil
cdef void server_timer(Proxy* p, uint32_t server) noexcept nogil
