# SPDX-License-Identifier: Apache-2.0
"""Response processing (RFC 3261 sections 16.7 to 16.9): what becomes of each attempt, and what the caller hears."""
from libc.stdint cimport uint32_t

from ubisip.core.address cimport Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy

cdef void receive_response(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil
cdef void ended(Proxy* p, uint32_t client) noexcept nogil
