# SPDX-License-Identifier: Apache-2.0
"""Bindings as rows: read by the control thread, put back after a restart, told by the other gateways of the site."""
from libc.stdint cimport int64_t, uint8_t, uint32_t

from ubisip.core.bindings cimport Bindings
from ubisip.core.proxy cimport Proxy

cdef tuple read_bindings(Bindings* table, uint32_t after, uint32_t limit, uint32_t home)
cdef restore_bindings(Bindings* table, rows, int listeners, int64_t now)
cdef bytes shared_letter(row, uint32_t home, str hop)
cdef bytes ended_letter(str aor, str contact, str instance, uint32_t reg_id, uint32_t home)
cdef void share_binding(Proxy* p, const uint8_t* data) noexcept nogil
