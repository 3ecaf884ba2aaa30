# SPDX-License-Identifier: Apache-2.0
"""Destination sets and how one is chosen (DESIGN section 6); the load on each, and the calls behind it."""
from libc.math cimport log
from libc.stdint cimport int16_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from ubisip.core.snapshot cimport (
    POLICY_HASH, POLICY_LEAST_CALLS, POLICY_ROUND_ROBIN, SWITCH_READY, Destination, PlatformView, Side,
)

cdef extern from "memory.h" nogil:
    void* table_open(uint64_t octets) noexcept
    void table_close(void* memory, uint64_t octets) noexcept


# An INVITE costs a server this much more than a call that stands (Jiang et al. 2012, the TLWL policy).
cdef double SETUP_COST = 1.75


cdef bint targets_open(Targets* targets, uint32_t max_calls) noexcept nogil:
    cdef uint32_t size = 1024
    memset(targets, 0, sizeof(Targets))
    targets.random = <uint64_t>0x9E3779B97F4A7C15
    targets.max_calls = max_calls
    while size < 2 * <uint64_t>max_calls:
        size *= 2
    targets.call_mask = size - 1
    targets.calls = <Call*>table_open(size * sizeof(Call))
    return targets.calls != NULL


cdef void targets_close(Targets* targets) noexcept nogil:
    table_close(targets.calls, (<uint64_t>targets.call_mask + 1) * sizeof(Call))
    targets.calls = NULL


cdef bint allow(RateLimit* limit, double rate, double burst, int64_t now) noexcept nogil:
    """Token bucket: take one of *rate* tokens a second, of which *burst* may have gathered."""
    if limit.at == 0:
        limit.tokens = burst
    else:
        limit.tokens = min(burst, limit.tokens + (now - limit.at) * rate / 1e6)
    limit.at = now
    if limit.tokens < 1.0:
        return False
    limit.tokens -= 1.0
    return True


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline bint is_tried(const uint64_t* tried, int slot) noexcept nogil:
    return (tried[slot >> 6] >> (slot & 63)) & 1


cdef double fraction(uint64_t x) noexcept nogil:
    """Into (0, 1)."""
    return ((x >> 11) + 0.5) / 9007199254740992.0


cdef bint has_room(const Load* load, const Destination* destination, int64_t now) noexcept nogil:
    """Below max_calls and max_cps; the token is taken only when it is chosen (take_call)."""
    if destination.max_calls and load.calls + load.setup >= destination.max_calls:
        return False
    if destination.max_cps > 0 and load.rate.at:
        return load.rate.tokens + (now - load.rate.at) * destination.max_cps / 1e6 >= 1.0
    return True


cdef bint looks_down(const PlatformView* view, int side) noexcept nogil:
    """Every destination of a side looks down: then we rather suspect ourselves (DESIGN section 6)."""
    cdef int slot
    for slot in range(view.destination_count):
        if view.destinations[slot].present and view.destinations[slot].side == <Side>side \
                and view.destinations[slot].switch == SWITCH_READY and view.destinations[slot].usable \
                and view.destinations[slot].weight > 0:
            return False
    return True


cdef double score(Targets* targets, const PlatformView* view, int slot, uint64_t call) noexcept nogil:
    """The opinion of a policy other than hash; the highest wins."""
    cdef const Destination* destination = &view.destinations[slot]
    cdef Load* load = &targets.load[slot]
    cdef double lot
    if view.policy == POLICY_LEAST_CALLS:
        # Equal loads are told apart by the rendezvous, a tiny part of a call.
        lot = -log(fraction(mix(call ^ mix(destination.id))))
        return -(load.calls + SETUP_COST * load.setup + 1e-6 * lot) / destination.weight
    if view.policy == POLICY_ROUND_ROBIN:
        load.turn += destination.weight
        return load.turn
    return log(fraction(mix(targets.random ^ mix(destination.id)))) / destination.weight


cdef inline bint is_better(double lot, double weight, double than, double than_weight) noexcept nogil:
    """POLICY_HASH: weighted rendezvous, so only a lost server's share moves; no logarithm between equal weights."""
    return lot > than if weight == than_weight else log(lot) / weight > log(than) / than_weight


cdef int choose_tier(Targets* targets, const PlatformView* view, int side, bint far, bint panic, bint held,
                     uint64_t call, const uint64_t* tried, bint unlimited, int64_t now) noexcept nogil:
    cdef int slot, best = NOBODY
    cdef double value, best_value = 0, total = 0
    cdef bint full = False
    cdef const Destination* destination
    for slot in range(view.destination_count):
        destination = &view.destinations[slot]
        if not destination.present or destination.side != <Side>side or destination.far != far:
            continue
        if destination.switch != SWITCH_READY or destination.weight <= 0 or is_tried(tried, slot):
            continue
        if not panic and not destination.usable or (not held and targets.load[slot].held_until > now):
            continue
        if not unlimited and (targets.load[slot].rest_until > now
                              or not has_room(&targets.load[slot], destination, now)):
            full = True
            continue
        total += destination.weight
        if view.policy == POLICY_HASH:
            value = fraction(mix(call ^ mix(destination.id)))
            if best == NOBODY or is_better(value, destination.weight, best_value, view.destinations[best].weight):
                best = slot
                best_value = value
            continue
        value = score(targets, view, slot, call)
        if best == NOBODY or value > best_value:
            best = slot
            best_value = value
    if best >= 0 and view.policy == POLICY_ROUND_ROBIN:
        targets.load[best].turn -= total
    return ALL_FULL if best == NOBODY and full else best


cdef int choose_side(Targets* targets, const PlatformView* view, int side, bint panic, bint held, uint64_t call,
                     const uint64_t* tried, bint unlimited, int64_t now) noexcept nogil:
    """Own site first; *held* looks away from held_until."""
    cdef int near, far
    near = choose_tier(targets, view, side, False, panic, held, call, tried, unlimited, now)
    if near >= 0:
        return near
    far = choose_tier(targets, view, side, True, panic, held, call, tried, unlimited, now)
    return far if far >= 0 or far == ALL_FULL else near


cdef int choose(Targets* targets, const PlatformView* view, int side, uint64_t call, const uint64_t* tried,
                bint unlimited, int64_t now) noexcept nogil:
    """The destination to try next: switch, health, capacity, own site first, weight, policy (DESIGN section 6).

    *tried* is a bit per slot, *unlimited* looks away from max_calls and max_cps. Gives a slot, NOBODY or ALL_FULL.
    """
    cdef bint panic = looks_down(view, side)
    cdef int slot
    targets.random = mix(targets.random + <uint64_t>0x9E3779B97F4A7C15)
    if targets.held_until > now:
        slot = choose_side(targets, view, side, panic, False, call, tried, unlimited, now)
        if slot >= 0:
            return slot
    return choose_side(targets, view, side, panic, True, call, tried, unlimited, now)


cdef bint may_take(Targets* targets, const PlatformView* view, int slot) noexcept nogil:
    """Whether a hook's choice can be followed: it exists and the operator lets it take calls."""
    return 0 <= slot < view.destination_count and view.destinations[slot].present \
        and view.destinations[slot].switch == SWITCH_READY


cdef void take_call(Targets* targets, const PlatformView* view, int slot, int64_t now) noexcept nogil:
    """Count a new call on its way to a destination."""
    cdef double rate = view.destinations[slot].max_cps
    targets.load[slot].attempts += 1
    targets.load[slot].setup += 1
    if rate > 0:
        allow(&targets.load[slot].rate, rate, max(1.0, rate / 10), now)


cdef bint call_answered(Targets* targets, uint64_t call, int slot, int64_t now) noexcept nogil:
    """Note that a call stands on a destination; False: the bound is reached, the call is carried but not counted."""
    cdef uint32_t at
    call |= call == 0
    at = <uint32_t>call & targets.call_mask
    while targets.calls[at].key:
        if targets.calls[at].key == call:
            return True
        at = (at + 1) & targets.call_mask
    if targets.call_count >= targets.max_calls:
        return False
    targets.calls[at].key = call
    targets.calls[at].answered = <uint32_t>(now // 1000000)
    targets.calls[at].slot = <int16_t>slot
    targets.call_count += 1
    targets.load[slot].calls += 1
    return True


cdef void remove_call(Targets* targets, uint32_t at) noexcept nogil:
    """Free a place and close the gap, so that every later search still ends at the first free place."""
    cdef uint32_t hole = at, home
    targets.load[targets.calls[at].slot].calls -= 1
    targets.call_count -= 1
    while True:
        at = (at + 1) & targets.call_mask
        if targets.calls[at].key == 0:
            break
        home = <uint32_t>targets.calls[at].key & targets.call_mask
        if ((at - home) & targets.call_mask) >= ((at - hole) & targets.call_mask):
            targets.calls[hole] = targets.calls[at]
            hole = at
    targets.calls[hole].key = 0


cdef int call_ended(Targets* targets, uint64_t call) noexcept nogil:
    """A BYE passed: the slot of the destination the call stood on; NOBODY: it was not known."""
    cdef uint32_t at
    cdef int slot
    call |= call == 0
    at = <uint32_t>call & targets.call_mask
    while targets.calls[at].key:
        if targets.calls[at].key == call:
            slot = targets.calls[at].slot
            remove_call(targets, at)
            return slot
        at = (at + 1) & targets.call_mask
    return NOBODY


cdef void forget_old_calls(Targets* targets, int64_t now) noexcept nogil:
    """Look at a few places for calls whose BYE never came; the whole table in less than an hour."""
    cdef uint32_t _i, seconds = <uint32_t>(now // 1000000)
    for _i in range(256):
        targets.sweep = (targets.sweep + 1) & targets.call_mask
        if targets.calls[targets.sweep].key and seconds - targets.calls[targets.sweep].answered > CALL_LIFETIME:
            remove_call(targets, targets.sweep)
