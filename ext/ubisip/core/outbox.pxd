# SPDX-License-Identifier: Apache-2.0
"""The datagrams of one turn, in order, in one arena: what the worker hands to sendmmsg."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ubisip.core.address cimport Flow

cdef enum:
    # A turn takes in at most 64 datagrams and fires at most 256 timers; each gives at most a handful.
    OUTBOX_DATAGRAMS = 4096
    OUTBOX_OCTETS = 32 << 20     # address space; only what is used is ever touched


cdef struct Outgoing:
    uint8_t* data
    uint32_t size
    Flow to


cdef struct Outbox:
    uint8_t* arena
    uint32_t used
    uint32_t count
    uint64_t overflow            # datagrams not sent because the outbox was full
    Outgoing datagrams[OUTBOX_DATAGRAMS]


cdef bint outbox_open(Outbox* outbox) noexcept nogil
cdef void outbox_close(Outbox* outbox) noexcept nogil
cdef uint8_t* outbox_reserve(Outbox* outbox, uint32_t most) noexcept nogil
cdef void outbox_commit(Outbox* outbox, uint32_t size, const Flow* to) noexcept nogil
cdef void outbox_send(Outbox* outbox, const uint8_t* data, uint32_t size, const Flow* to) noexcept nogil
cdef void outbox_clear(Outbox* outbox) noexcept nogil
cdef bint outbox_nearly_full(const Outbox* outbox) noexcept nogil
