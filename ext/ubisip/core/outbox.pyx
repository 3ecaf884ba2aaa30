# SPDX-License-Identifier: Apache-2.0
"""The datagrams of one turn, in order, in one arena: what the worker hands to sendmmsg."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from ubisip.core.address cimport Flow


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


cdef void outbox_send(Outbox* outbox, const uint8_t* data, uint32_t size, const Flow* to) noexcept nogil:
    cdef uint8_t* room = outbox_reserve(outbox, size)
    if room != NULL:
        memcpy(room, data, size)
        outbox_commit(outbox, size, to)
