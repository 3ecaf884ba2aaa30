# SPDX-License-Identifier: Apache-2.0
"""Request validation (RFC 3261 section 16.3)."""
from ubisip.core.address cimport Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy

cdef bint validate(Proxy* p, const ParsedMessage* m, const Flow* from_) noexcept nogil
