# SPDX-License-Identifier: Apache-2.0
"""Timers of RFC 3261 section 17 as values, and the wheel they hang in."""
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from "memory.h" nogil:
    void* table_open(uint64_t octets) noexcept
    void table_close(void* memory, uint64_t octets) noexcept


cdef extern from * nogil:
    int __builtin_ctzll(uint64_t x) noexcept


cdef uint32_t FIRST = 0x80000000u  # in previous[]: the entry heads the slot whose number follows


cdef bint wheel_open(Wheel* wheel, uint32_t capacity, int64_t now) noexcept nogil:
    """An empty wheel for the entries 1..capacity; False: no memory."""
    wheel.capacity = capacity + 1
    wheel.tick = now >> TICK_BITS
    wheel.armed = 0
    wheel.soonest = NEVER
    wheel.head = <uint32_t*>table_open(WHEEL_SLOTS * sizeof(uint32_t))
    wheel.marks = <uint64_t*>table_open(WHEEL_SLOTS // 8)
    wheel.next = <uint32_t*>table_open(wheel.capacity * sizeof(uint32_t))
    wheel.previous = <uint32_t*>table_open(wheel.capacity * sizeof(uint32_t))
    wheel.due = <int64_t*>table_open(wheel.capacity * sizeof(int64_t))
    return (wheel.head != NULL and wheel.marks != NULL and wheel.next != NULL and wheel.previous != NULL
            and wheel.due != NULL)


cdef void wheel_close(Wheel* wheel) noexcept nogil:
    table_close(wheel.head, WHEEL_SLOTS * sizeof(uint32_t))
    table_close(wheel.marks, WHEEL_SLOTS // 8)
    table_close(wheel.next, wheel.capacity * sizeof(uint32_t))
    table_close(wheel.previous, wheel.capacity * sizeof(uint32_t))
    table_close(wheel.due, wheel.capacity * sizeof(int64_t))
    wheel.head = wheel.next = wheel.previous = NULL
    wheel.marks = NULL
    wheel.due = NULL


cdef inline void link(Wheel* wheel, uint32_t entry) noexcept nogil:
    # Rounded up: a timer never fires early.
    cdef int64_t tick = (wheel.due[entry] + (1 << TICK_BITS) - 1) >> TICK_BITS
    cdef uint32_t slot
    if tick < wheel.tick:
        tick = wheel.tick
    elif tick >= wheel.tick + WHEEL_SLOTS - 1:
        tick = wheel.tick + WHEEL_SLOTS - 2  # looked at again then
    wheel.soonest = min(wheel.soonest, tick)
    slot = <uint32_t>(tick & (WHEEL_SLOTS - 1))
    wheel.next[entry] = wheel.head[slot]
    if wheel.head[slot]:
        wheel.previous[wheel.head[slot]] = entry
    wheel.previous[entry] = FIRST | slot
    wheel.head[slot] = entry
    wheel.marks[slot >> 6] |= <uint64_t>1 << (slot & 63)


cdef inline void unlink(Wheel* wheel, uint32_t entry) noexcept nogil:
    cdef uint32_t previous = wheel.previous[entry], next = wheel.next[entry], slot
    if next:
        wheel.previous[next] = previous
    if previous & FIRST:
        slot = previous & ~FIRST
        wheel.head[slot] = next
        if not next:
            wheel.marks[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
    else:
        wheel.next[previous] = next


cdef void wheel_arm(Wheel* wheel, uint32_t entry, int64_t due) noexcept nogil:
    """Set the one timer of *entry* to *due* (microseconds), whatever it was."""
    if wheel.due[entry] == due:
        return
    wheel_disarm(wheel, entry)
    wheel.due[entry] = due
    wheel.armed += 1
    link(wheel, entry)


cdef void wheel_disarm(Wheel* wheel, uint32_t entry) noexcept nogil:
    if wheel.due[entry]:
        unlink(wheel, entry)
        wheel.due[entry] = 0
        wheel.armed -= 1


cdef int64_t next_tick(const Wheel* wheel) noexcept nogil:
    """The first tick from the present one on whose slot holds an entry; -1: none."""
    cdef uint32_t slot = <uint32_t>(wheel.tick & (WHEEL_SLOTS - 1)), word = slot >> 6, _i
    cdef uint64_t marks
    if wheel.armed == 0:
        return -1
    marks = wheel.marks[word] & (~<uint64_t>0 << (slot & 63))
    for _i in range(WHEEL_SLOTS // 64 + 1):
        if marks:
            slot = (word << 6) + <uint32_t>__builtin_ctzll(marks)
            return wheel.tick + ((slot - wheel.tick) & (WHEEL_SLOTS - 1))
        word = (word + 1) & (WHEEL_SLOTS // 64 - 1)
        marks = wheel.marks[word]
    return -1


cdef uint32_t wheel_pop(Wheel* wheel, int64_t now) noexcept nogil:
    """Take out one entry that is due at *now*; 0: there is none."""
    cdef int64_t limit = now >> TICK_BITS, tick
    cdef uint32_t entry
    while True:
        tick = wheel.soonest
        if tick <= limit:
            tick = next_tick(wheel)
            wheel.soonest = NEVER if tick < 0 else tick
        if wheel.soonest > limit:
            wheel.tick = max(wheel.tick, limit)
            return 0
        wheel.tick = tick
        entry = wheel.head[tick & (WHEEL_SLOTS - 1)]
        unlink(wheel, entry)
        if wheel.due[entry] <= now:
            wheel.due[entry] = 0
            wheel.armed -= 1
            return entry
        link(wheel, entry)


cdef int64_t wheel_next(const Wheel* wheel) noexcept nogil:
    """When wheel_pop() is next worth a call (microseconds), or somewhat earlier; -1: no timer runs."""
    return -1 if wheel.armed == 0 else wheel.soonest << TICK_BITS
