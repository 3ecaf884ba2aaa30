# SPDX-License-Identifier: Apache-2.0
"""The Sans-I/O whole: datagrams in, datagrams out, time as an argument."""
from libc.stdint cimport int64_t, uint8_t, uint32_t

from ubisip.core.address cimport Address, Flow
from ubisip.core.proxy cimport Proxy
from ubisip.core.snapshot cimport PlatformView, Snapshot

cdef class Engine:
    cdef Proxy* proxy
    cdef Snapshot snapshot      # keeps the view alive that the proxy reads

cdef void engine_read(Proxy* p, int place, const uint8_t* data, uint32_t size) noexcept nogil
cdef void engine_handle(Proxy* p, int place, const uint8_t* data, uint32_t size, const Flow* from_,
                        int64_t now) noexcept nogil
cdef void engine_receive(Proxy* p, const uint8_t* data, uint32_t size, const Flow* from_, int64_t now) noexcept nogil
cdef bint engine_advance(Proxy* p, int64_t now) noexcept nogil
cdef int64_t engine_next_timer(const Proxy* p) noexcept nogil
cdef void engine_swap(Proxy* p, const PlatformView* view, int64_t now) noexcept nogil
cdef void engine_probe(Proxy* p, int slot, const uint8_t* data, uint32_t size, int64_t handle, int64_t timeout,
                       int64_t now) noexcept nogil
cdef void engine_transport_error(Proxy* p, const uint8_t* data, uint32_t size, const Address* to,
                                 int64_t now) noexcept nogil
cdef void engine_stream_closed(Proxy* p, uint32_t stream, int64_t now) noexcept nogil
cdef void engine_credentials(Proxy* p, const uint8_t* data, uint32_t size, int has, bint failed, int64_t lifetime,
                             int64_t now) noexcept nogil
cdef void engine_share(Proxy* p, const uint8_t* letter, int64_t now) noexcept nogil
cdef tuple credential_letter(str user, str realm, bytes md5, bytes sha256, bytes sha512_256, bint known)
cdef engine_restore(Proxy* p, rows, int64_t now)
cdef bint engine_decide(Proxy* p, int64_t handle, int slot, int64_t now) noexcept nogil
cdef Proxy* open_proxy(Snapshot snapshot, keys, int64_t now) except NULL
cdef void close_proxy(Proxy* p) noexcept
cdef set_key_ring(Proxy* p, keys)
cdef dict proxy_statistics(Proxy* p)
