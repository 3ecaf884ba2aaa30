# SPDX-License-Identifier: Apache-2.0
"""STUN as a keep-alive of flows over UDP (RFC 5626 section 4.4.2, RFC 8489): a Binding request is answered, no more."""
from libc.stdint cimport uint8_t, uint32_t

from ubisip.core.address cimport Flow
from ubisip.core.proxy cimport Proxy

cdef bint is_stun(const uint8_t* data, uint32_t size) noexcept nogil
cdef void receive_stun(Proxy* p, const uint8_t* data, uint32_t size, const Flow* from_) noexcept nogil
