# SPDX-License-Identifier: Apache-2.0
"""The response context of a request (RFC 3261 section 16.7): a server transaction that keeps what it answers."""
from libc.stdint cimport uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy

cdef bint is_scarce(const Proxy* p) noexcept nogil
cdef uint32_t create_server(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer, const uint64_t* key,
                            uint64_t call) noexcept nogil
