# SPDX-License-Identifier: Apache-2.0
"""What a message belongs to: the server transaction of a request (RFC 3261 section 17.2.3), the call of any message."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ubisip.core.message cimport ParsedMessage
from ubisip.core.span cimport Span

cdef bint is_rfc3261_branch(const uint8_t* data, Span branch) noexcept nogil
cdef void branch_key(const uint64_t* secret, const ParsedMessage* m, Span branch, Span sent_by, bint as_invite,
                     uint64_t* key) noexcept nogil
cdef void server_key(const uint64_t* secret, const ParsedMessage* m, bint as_invite, uint64_t* key) noexcept nogil
cdef uint64_t call_hash(const ParsedMessage* m) noexcept nogil
cdef uint32_t tag_hash(const ParsedMessage* m, Span tag) noexcept nogil
cdef uint32_t loop_hash(const ParsedMessage* m) noexcept nogil
