# SPDX-License-Identifier: Apache-2.0
"""The response context of a request (RFC 3261 section 16.7): a server transaction, what it keeps, and how it ends."""
from libc.stdint cimport uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy
from ubisip.core.transactions cimport Transaction

cdef bint is_scarce(const Proxy* p) noexcept nogil
cdef uint32_t create_server(Proxy* p, const ParsedMessage* m, const Flow* from_, int peer, const uint64_t* key,
                            uint64_t call) noexcept nogil
cdef int rank(int status) noexcept nogil
cdef void attempt_failed(Proxy* p, uint32_t server, int status, int slot, bint retry) noexcept nogil
cdef bint is_servers(const Proxy* p, const Transaction* s) noexcept nogil
cdef void conclude(Proxy* p, uint32_t server) noexcept nogil
