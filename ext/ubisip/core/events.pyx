# SPDX-License-Identifier: Apache-2.0
"""The bounded ring from the worker to the control thread: when it is full, events are counted as lost, calls go on."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_FromStringAndSize

from typing import NamedTuple

from ubisip.core.address cimport ANY_STREAM, Flow, address_to_python


cdef extern from "ring.h" nogil:
    uint32_t load_acquire(const uint32_t* word) noexcept
    void store_release(uint32_t* word, uint32_t value) noexcept
    uint64_t load_acquire_long(const uint64_t* word) noexcept
    void store_release_long(uint64_t* word, uint64_t value) noexcept


EVENT_KINDS = ("ask", "probe", "refused", "silent", "busy", "credentials",
               "in_step", "out_of_step", "setup", "ringing", "answered", "failed", "failover",
               "ended")


class Event(NamedTuple):
    """Something the control thread may want to know; see EVENT_KINDS."""

    kind: str
    time: float
    destination: int
    status: int
    handle: int
    value: float
    data: bytes


cdef bint events_open(Events* events) noexcept nogil:
    events.ring = <EventRecord*>calloc(EVENT_RING, sizeof(EventRecord))
    events.head = events.tail = 0
    events.lost = 0
    events.urgent = False
    return events.ring != NULL


cdef void events_close(Events* events) noexcept nogil:
    if events.ring == NULL:
        return
    while events.head != events.tail:
        free(events.ring[events.head % EVENT_RING].data)
        events.head += 1
    free(events.ring)
    events.ring = NULL


cdef void emit(Events* events, EventKind kind, int64_t now, int slot, int status, int64_t handle, int64_t value,
               const uint8_t* data, uint32_t length) noexcept nogil:
    cdef EventRecord* record
    cdef uint8_t* copy = NULL
    if kind >= EVENT_SETUP and kind <= EVENT_ENDED and length > EVENT_CALL_ID:
        length = EVENT_CALL_ID
    if events.tail - load_acquire(&events.head) == EVENT_RING or \
            events.put - load_acquire_long(&events.taken) + length > EVENT_OCTETS:
        events.lost += 1
        return
    if length:
        copy = <uint8_t*>malloc(length)
        if copy == NULL:
            events.lost += 1
            return
        memcpy(copy, data, length)
    events.put += length
    record = &events.ring[events.tail % EVENT_RING]
    record.kind = kind
    record.time = now
    record.slot = slot
    record.status = status
    record.handle = handle
    record.value = value
    record.data = copy
    record.length = length
    store_release(&events.tail, events.tail + 1)
    if kind <= EVENT_OUT_OF_STEP or kind == EVENT_STREAM:
        events.urgent = True


cdef void put_stream_message(Events* events, const uint8_t* data, uint32_t length, const Flow* to) noexcept nogil:
    """A message that the control thread sends over a connection; lost and counted when the ring is full."""
    if events.tail - load_acquire(&events.head) < EVENT_RING:
        events.ring[events.tail % EVENT_RING].flow = to[0]  # the place is ours until emit() moves the tail
    emit(events, EVENT_STREAM, 0, to.listener, 0, to.stream, 0, data, length)


class StreamMessage(NamedTuple):
    """A message to send over a connection: number *stream*, or (0) any that leads to *address*."""

    data: bytes
    address: tuple
    listener: int
    stream: int


cdef list take_stream_messages(Events* events):
    """Every message for a connection, oldest first."""
    cdef uint32_t tail = load_acquire(&events.tail), head = events.head
    cdef EventRecord* record
    cdef list taken = []
    while head != tail:
        record = &events.ring[head % EVENT_RING]
        stream = 0 if record.flow.stream == ANY_STREAM else record.flow.stream
        taken.append(StreamMessage((<const char*>record.data)[:record.length], address_to_python(&record.flow.peer),
                                   record.flow.listener, stream))
        free(record.data)
        record.data = NULL
        store_release_long(&events.taken, events.taken + record.length)
        head += 1
        store_release(&events.head, head)
    return taken


cdef list take_events(Events* events):
    """Every event in the ring as Python values, oldest first."""
    cdef uint32_t tail = load_acquire(&events.tail), head = events.head
    cdef EventRecord* record
    cdef list taken = []
    while head != tail:
        record = &events.ring[head % EVENT_RING]
        data = (<const char*>record.data)[:record.length] if record.data != NULL else b""
        free(record.data)
        record.data = NULL
        store_release_long(&events.taken, events.taken + record.length)
        value = record.value / 1e6
        taken.append(Event(EVENT_KINDS[<int>record.kind], record.time / 1e6, record.slot, record.status, record.handle,
                           value, data))
        head += 1
        store_release(&events.head, head)
    return taken


cdef bytes take_journal(Events* events):
    """The data of every event in the ring, one after the other."""
    cdef uint32_t tail = load_acquire(&events.tail), head = events.head, at
    cdef uint64_t size = 0
    cdef EventRecord* record
    cdef bytes joined
    cdef char* out
    for at in range(head, tail):
        size += events.ring[at % EVENT_RING].length
    joined = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    out = joined
    for at in range(head, tail):
        record = &events.ring[at % EVENT_RING]
        memcpy(out, record.data, record.length)
        out += record.length
        free(record.data)
        record.data = NULL
    store_release_long(&events.taken, events.taken + size)
    store_release(&events.head, tail)
    return joined
