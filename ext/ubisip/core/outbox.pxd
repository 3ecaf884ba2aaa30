# SPDX-License-Identifier: Apache-2.0
"""The datagrams of one turn, in order, in one arena: what the worker hands to sendmmsg."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.message cimport SCAN_PADDING

cdef enum:
    # A turn takes in at most 64 datagrams and fires at most 256 timers; each gives at most a handful.
    OUTBOX_DATAGRAMS = 4096
    OUTBOX_OCTETS = 32 << 20     # address space; only what is used is ever touched


cdef struct Outgoing:
    uint8_t* data
    uint32_t size
    Flow to
    uint64_t call                # of a response: hash of the Call-ID; 0: it keeps its place among all others


cdef struct Outbox:
    uint8_t* arena
    uint32_t used
    uint32_t count
    uint64_t overflow            # datagrams not sent because the outbox was full
    Outgoing datagrams[OUTBOX_DATAGRAMS]


cdef bint outbox_open(Outbox* outbox) noexcept nogil
cdef void outbox_close(Outbox* outbox) noexcept nogil
cdef void outbox_send(Outbox* outbox, const uint8_t* data, uint32_t size, const Flow* to) noexcept nogil


cdef inline uint8_t* outbox_reserve(Outbox* outbox, uint32_t most) noexcept nogil:
    """Room for a datagram of at most *most* octets; NULL, counted, when the outbox is full."""
    if outbox.count == OUTBOX_DATAGRAMS or OUTBOX_OCTETS - outbox.used < most + SCAN_PADDING:
        outbox.overflow += 1
        return NULL
    return outbox.arena + outbox.used


cdef inline void outbox_commit(Outbox* outbox, uint32_t size, const Flow* to) noexcept nogil:
    """The datagram just written into the reserved room has *size* octets and goes to *to*."""
    cdef Outgoing* out = &outbox.datagrams[outbox.count]
    out.data = outbox.arena + outbox.used
    out.size = size
    out.to = to[0]
    out.call = 0
    outbox.count += 1
    outbox.used += (size + 63) & ~<uint32_t>63


cdef inline void outbox_commit_response(Outbox* outbox, uint32_t size, const Flow* to, uint64_t call) noexcept nogil:
    """Likewise a response: it may leave before datagrams of other calls, together with others of its size."""
    outbox_commit(outbox, size, to)
    outbox.datagrams[outbox.count - 1].call = call | (call == 0)


cdef inline void outbox_clear(Outbox* outbox) noexcept nogil:
    outbox.used = outbox.count = 0


cdef inline bint outbox_nearly_full(const Outbox* outbox) noexcept nogil:
    return outbox.count > OUTBOX_DATAGRAMS - 64 or outbox.used > OUTBOX_OCTETS - (4 << 20)
