# SPDX-License-Identifier: Apache-2.0
"""Responses of our own (RFC 3261 section 8.2.6), and how a server transaction sends any response."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ubisip.core.address cimport Address, Flow
from ubisip.core.edits cimport Edits
from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy
from ubisip.core.transactions cimport Buffer

cdef void mark_via(const ParsedMessage* m, const Flow* from_, Edits* edits) noexcept nogil
cdef void add_content_length(const ParsedMessage* m, Edits* edits) noexcept nogil
cdef Flow response_flow(const ParsedMessage* m, const Flow* from_) noexcept nogil
cdef void answer(Proxy* p, const ParsedMessage* m, const Flow* from_, int status, const char* reason,
                 const char* extra) noexcept nogil
cdef void answer_transaction(Proxy* p, uint32_t server, int status, const char* reason,
                             const char* extra) noexcept nogil
cdef void answer_kept(Proxy* p, uint32_t server, const ParsedMessage* m, int status, const char* reason,
                      const char* extra) noexcept nogil
cdef void respond(Proxy* p, const ParsedMessage* m, const Flow* from_, uint32_t server, int status, const char* reason,
                  const char* extra) noexcept nogil
cdef void answer_later(Proxy* p, uint32_t server, int status) noexcept nogil
cdef bint send_response(Proxy* p, uint32_t server, uint8_t* data, uint32_t size, int status) noexcept nogil
cdef bint is_own_tag(const Proxy* p, const ParsedMessage* m) noexcept nogil
cdef const char* retry_after(Proxy* p) noexcept nogil
