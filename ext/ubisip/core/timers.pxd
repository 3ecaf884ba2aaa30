# SPDX-License-Identifier: Apache-2.0
"""Timers of RFC 3261 section 17 as values, and the wheel they hang in."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    # RFC 3261 table 4, in microseconds.
    T1 = 500000
    T2 = 4000000
    T4 = 5000000
    LIFETIME = 32000000      # 64*T1: timers B, F, H, J, L and M
    TIMER_D = 32000000
    TRYING_INVITE = 150000   # a 100 to an INVITE that nothing else has answered: within 200 ms (section 17.2.1)
    TRYING_OTHER = 3500000   # a 100 to a non-INVITE, when Timer E reaches T2 (RFC 4320 section 4.1)
    TICK_BITS = 10           # a tick is 1.024 ms
    NEVER = 0x7FFFFFFFFFFFFFFF
    WHEEL_SLOTS = 65536      # 67 s; what is due later waits in the last slot
    WHEEL_GROUPS = 16        # of 64 x 64 slots


cdef struct WheelEntry:      # together, for they are needed together
    int64_t due              # 0: not in the wheel
    uint32_t next
    uint32_t previous        # the slot's number with the top bit set for the first one


cdef struct Wheel:
    uint32_t* head           # first entry of each slot; entries count from 1, 0 is none
    WheelEntry* entries
    uint64_t* marks          # one bit a slot
    uint64_t groups[WHEEL_GROUPS]  # one bit a word of marks
    int64_t tick             # all before it has been fired
    int64_t soonest          # no entry is in a slot before this tick; NEVER when there is none
    uint32_t armed           # entries in the wheel
    uint32_t capacity


cdef bint wheel_open(Wheel* wheel, uint32_t capacity, int64_t now) noexcept nogil
cdef void wheel_close(Wheel* wheel) noexcept nogil
cdef void wheel_arm(Wheel* wheel, uint32_t entry, int64_t due) noexcept nogil
cdef void wheel_disarm(Wheel* wheel, uint32_t entry) noexcept nogil
cdef uint32_t wheel_pop(Wheel* wheel, int64_t now) noexcept nogil
cdef int64_t wheel_next(const Wheel* wheel) noexcept nogil
