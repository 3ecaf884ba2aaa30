# SPDX-License-Identifier: Apache-2.0
"""Registrations passed on to the telephony servers, and servers brought in step (DESIGN section 8)."""
from libc.stdint cimport uint32_t

from ubisip.core.message cimport ParsedMessage
from ubisip.core.proxy cimport Proxy

cdef uint32_t mirror_binding(Proxy* p, uint32_t index, uint32_t server) noexcept nogil
cdef void wait_for_mirror(Proxy* p, uint32_t server) noexcept nogil
cdef void mirror_answered(Proxy* p, uint32_t client, int status) noexcept nogil
cdef void note_listing(Proxy* p, uint32_t client, const ParsedMessage* m) noexcept nogil
cdef void look_after(Proxy* p, int slot) noexcept nogil
cdef void mirror_late(Proxy* p, uint32_t server) noexcept nogil
cdef void bring_in_step(Proxy* p) noexcept nogil
cdef void server_emptied(Proxy* p, int slot) noexcept nogil
cdef bint is_told(const Proxy* p, int slot) noexcept nogil
cdef void all_behind(Proxy* p) noexcept nogil
