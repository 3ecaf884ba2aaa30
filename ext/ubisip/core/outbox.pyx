# SPDX-License-Identifier: Apache-2.0
"""The datagrams of one turn, in order, in one arena: what the worker hands to sendmmsg."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from ubisip.core.address cimport Flow
from ubisip.core.message cimport SCAN_PADDING


cdef bint outbox_open(Outbox* outbox) noexcept nogil:
    cdef void* memory = mmap(
        NULL, OUTBOX_OCTETS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if memory == MAP_FAILED:
        return False
    outbox.arena = <uint8_t*>memory
    outbox.used = outbox.count = 0
    outbox.overflow = 0
    return True


cdef void outbox_close(Outbox* outbox) noexcept nogil:
    if outbox.arena != NULL:
        munmap(outbox.arena, OUTBOX_OCTETS)
        outbox.arena = NULL


cdef uint8_t* outbox_reserve(Outbox* outbox, uint32_t most) noexcept nogil:
    """Room for a datagram of at most *most* octets; NULL, counted, when the outbox is full."""
    if outbox.count == OUTBOX_DATAGRAMS or OUTBOX_OCTETS - outbox.used < most + SCAN_PADDING:
        outbox.overflow += 1
        return NULL
    return outbox.arena + outbox.used


cdef void outbox_commit(Outbox* outbox, uint32_t size, const Flow* to) noexcept nogil:
    """The datagram just written into the reserved room has *size* octets and goes to *to*."""
    cdef Outgoing* out = &outbox.datagrams[outbox.count]
    out.data = outbox.arena + outbox.used
    out.size = size
    out.to = to[0]
    outbox.count += 1
    outbox.used += (size + 63) & ~<uint32_t>63


cdef void outbox_send(Outbox* outbox, const uint8_t* data, uint32_t size, const Flow* to) noexcept nogil:
    cdef uint8_t* room = outbox_reserve(outbox, size)
    if room != NULL:
        memcpy(room, data, size)
        outbox_commit(outbox, size, to)


cdef void outbox_clear(Outbox* outbox) noexcept nogil:
    outbox.used = outbox.count = 0


cdef bint outbox_nearly_full(const Outbox* outbox) noexcept nogil:
    return outbox.count > OUTBOX_DATAGRAMS - 64 or outbox.used > OUTBOX_OCTETS - (4 << 20)
