# SPDX-License-Identifier: Apache-2.0
"""The registrar (RFC 3261 section 10.3, RFC 3327, RFC 5626): what a REGISTER makes of its agent's bindings."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy

cdef void receive_register(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer,
                           const uint64_t* key) noexcept nogil
cdef void credentials_known(Proxy* p, const uint8_t* data, uint32_t user_length, uint32_t realm_length,
                            const uint8_t* digests, int has, int64_t lifetime) noexcept nogil
cdef void credentials_failed(Proxy* p, const uint8_t* data, uint32_t user_length, uint32_t realm_length) noexcept nogil
cdef void credentials_late(Proxy* p, uint32_t server) noexcept nogil
cdef bint expire_bindings(Proxy* p) noexcept nogil
cdef void flow_lost(Proxy* p, uint32_t stream) noexcept nogil
