# SPDX-License-Identifier: Apache-2.0
"""Where a request goes (RFC 3261 sections 16.4 and 16.5), before a destination is chosen."""
from ubisip.core.address cimport Flow
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy
from ubisip.core.route cimport RoutePlan

cdef enum:
    NEW = -1                 # what next_hop() says of a request whose destination is still to be chosen

cdef int side_across(const Proxy* p, int peer) noexcept nogil
cdef int next_hop(Proxy* p, const ParsedMessage* m, RoutePlan* plan, int peer, Flow* hop,
                  int* slot) noexcept nogil
cdef int secured(const Proxy* p, const ParsedMessage* m, const Flow* hop, int status) noexcept nogil
cdef const char* hop_reason(int status) noexcept nogil
