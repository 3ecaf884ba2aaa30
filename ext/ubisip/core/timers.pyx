# SPDX-License-Identifier: Apache-2.0
"""Timers of RFC 3261 section 17 as values, and the wheel they hang in."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset


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
    wheel.entries = <WheelEntry*>table_open(wheel.capacity * sizeof(WheelEntry))
    memset(wheel.groups, 0, sizeof(wheel.groups))
    return wheel.head != NULL and wheel.marks != NULL and wheel.entries != NULL


cdef void wheel_close(Wheel* wheel) noexcept nogil:
    table_close(wheel.head, WHEEL_SLOTS * sizeof(uint32_t))
    table_close(wheel.marks, WHEEL_SLOTS // 8)
    table_close(wheel.entries, wheel.capacity * sizeof(WheelEntry))
    wheel.head = NULL
    wheel.marks = NULL
    wheel.entries = NULL


cdef inline void link(Wheel* wheel, uint32_t entry) noexcept nogil:
    # Rounded up: a timer never fires early.
    cdef WheelEntry* each = &wheel.entries[entry]
    cdef int64_t tick = (each.due + (1 << TICK_BITS) - 1) >> TICK_BITS
    cdef uint32_t slot, head
    if tick < wheel.tick:
        tick = wheel.tick
    elif tick >= wheel.tick + WHEEL_SLOTS - 1:
        tick = wheel.tick + WHEEL_SLOTS - 2  # looked at again then
    wheel.soonest = min(wheel.soonest, tick)
    slot = <uint32_t>(tick & (WHEEL_SLOTS - 1))
    head = wheel.head[slot]
    each.next = head
    each.previous = FIRST | slot
    wheel.head[slot] = entry
    if head:
        wheel.entries[head].previous = entry
    else:
        wheel.marks[slot >> 6] |= <uint64_t>1 << (slot & 63)
        wheel.groups[slot >> 12] |= <uint64_t>1 << (slot >> 6 & 63)


cdef inline void unlink(Wheel* wheel, uint32_t entry) noexcept nogil:
    cdef uint32_t previous = wheel.entries[entry].previous, next = wheel.entries[entry].next, slot
    if next:
        wheel.entries[next].previous = previous
    if previous & FIRST:
        slot = previous & ~FIRST
        wheel.head[slot] = next
        if not next:
            wheel.marks[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
            if not wheel.marks[slot >> 6]:
                wheel.groups[slot >> 12] &= ~(<uint64_t>1 << (slot >> 6 & 63))
    else:
        wheel.entries[previous].next = next


cdef void wheel_arm(Wheel* wheel, uint32_t entry, int64_t due) noexcept nogil:
    """Set the one timer of *entry* to *due* (microseconds), whatever it was."""
    if wheel.entries[entry].due == due:
        return
    if wheel.entries[entry].due:
        unlink(wheel, entry)
    else:
        wheel.armed += 1
    wheel.entries[entry].due = due
    link(wheel, entry)


cdef void wheel_disarm(Wheel* wheel, uint32_t entry) noexcept nogil:
    if wheel.entries[entry].due:
        unlink(wheel, entry)
        wheel.entries[entry].due = 0
        wheel.armed -= 1


cdef int64_t next_tick(const Wheel* wheel) noexcept nogil:
    """The first tick from the present one on whose slot holds an entry; -1: none."""
    cdef uint32_t slot = <uint32_t>(wheel.tick & (WHEEL_SLOTS - 1)), word = slot >> 6, group, _i
    cdef uint64_t marks
    if wheel.armed == 0:
        return -1
    marks = wheel.marks[word] & (~<uint64_t>0 << (slot & 63))
    if not marks:
        word = (word + 1) & (WHEEL_SLOTS // 64 - 1)
        group = word >> 6
        marks = wheel.groups[group] & (~<uint64_t>0 << (word & 63))
        for _i in range(WHEEL_GROUPS):
            if marks:
                break
            group = (group + 1) & (WHEEL_GROUPS - 1)
            marks = wheel.groups[group]
        if not marks:
            return -1
        word = (group << 6) + <uint32_t>__builtin_ctzll(marks)
        marks = wheel.marks[word]
    slot = (word << 6) + <uint32_t>__builtin_ctzll(marks)
    return wheel.tick + ((slot - wheel.tick) & (WHEEL_SLOTS - 1))


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
        if wheel.entries[entry].due <= now:
            wheel.entries[entry].due = 0
            wheel.armed -= 1
            return entry
        link(wheel, entry)


cdef int64_t wheel_next(const Wheel* wheel) noexcept nogil:
    """When wheel_pop() is next worth a call (microseconds), or somewhat earlier; -1: no timer runs."""
    return -1 if wheel.armed == 0 else wheel.soonest << TICK_BITS
