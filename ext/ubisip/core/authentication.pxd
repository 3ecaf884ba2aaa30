# SPDX-License-Identifier: Apache-2.0
"""Who may register (RFC 3261 section 22, RFC 7616, RFC 8760): challenges, credentials, wrong passwords counted."""
from libc.stdint cimport uint32_t, uint64_t

from ubisip.core.accounts cimport Account
from ubisip.core.address cimport Flow
from ubisip.core.contacts cimport Register
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy
from ubisip.core.span cimport Span

cdef enum Verdict:
    ALLOWED
    ANSWERED                 # challenged or refused
    ASK_FIRST                # the digests of the user must be asked for
    REPLAYED                 # by whom it is for, but with a nonce and count seen before: it may only repeat what it did

cdef Verdict authenticate(Proxy* p, const ParsedMessage* m, const Flow* from_, Register* r, uint32_t server, bint asked,
                          uint64_t* name, Span* user) noexcept nogil
cdef void challenge(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, const Account* account,
                    bint stale) noexcept nogil
cdef uint32_t wall_seconds(const Proxy* p) noexcept nogil
