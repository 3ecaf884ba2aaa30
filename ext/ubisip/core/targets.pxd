# SPDX-License-Identifier: Apache-2.0
"""Destination sets and how one is chosen (DESIGN section 6); the load on each, and the calls behind it."""
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ubisip.core.snapshot cimport DESTINATIONS, Destination, PlatformView, Side

cdef enum:
    NOBODY = -1              # no destination is left to try
    ALL_FULL = -2            # there are healthy ones, each at its max_calls or max_cps, or resting
    CALL_LIFETIME = 43200    # seconds after which a call whose BYE never came is forgotten


cdef struct RateLimit:
    double tokens
    int64_t at


cdef struct Load:
    uint32_t setup           # INVITEs on their way
    uint32_t calls           # answered and not ended
    uint64_t attempts
    uint64_t answered
    uint64_t failed
    uint64_t failovers       # times the next one was tried after it
    uint64_t successes       # attempts that brought any response but 503: evidence of life
    int64_t rest_until       # 503 with Retry-After
    int64_t held_until       # it came back and is being told of its agents: others go before
    RateLimit rate           # max_cps
    RateLimit source         # new calls it sends us
    double turn              # round-robin


cdef struct Call:
    uint64_t key             # hash of the Call-ID; 0: the place is free
    uint32_t answered        # seconds
    int16_t slot


cdef struct Targets:
    Load load[DESTINATIONS]
    uint64_t random
    int64_t held_until       # the latest of them
    Call* calls              # open addressing
    uint32_t call_mask
    uint32_t call_count
    uint32_t max_calls
    uint32_t sweep           # where the search for forgotten calls goes on


cdef extern from "memory.h" nogil:
    void foresee(const void* memory) noexcept


cdef inline void foresee_call(const Targets* targets, uint64_t call) noexcept nogil:
    foresee(&targets.calls[<uint32_t>call & targets.call_mask])


cdef bint targets_open(Targets* targets, uint32_t max_calls) noexcept nogil
cdef void targets_close(Targets* targets) noexcept nogil
cdef bint allow(RateLimit* limit, double rate, double burst, int64_t now) noexcept nogil
cdef int choose(Targets* targets, const PlatformView* view, int side, uint64_t call, const uint64_t* tried,
                bint unlimited, int64_t now) noexcept nogil
cdef bint has_room(const Load* load, const Destination* destination, int64_t now) noexcept nogil
cdef bint may_take(Targets* targets, const PlatformView* view, int slot) noexcept nogil
cdef void take_call(Targets* targets, const PlatformView* view, int slot, int64_t now) noexcept nogil
cdef bint call_answered(Targets* targets, uint64_t call, int slot, int64_t now) noexcept nogil
cdef int call_ended(Targets* targets, uint64_t call) noexcept nogil
cdef void forget_old_calls(Targets* targets, int64_t now) noexcept nogil
