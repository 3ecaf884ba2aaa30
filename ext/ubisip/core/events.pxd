# SPDX-License-Identifier: Apache-2.0
"""The bounded ring from the worker to the control thread: when it is full, events are counted as lost, calls go on."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ubisip.core.address cimport Flow

cdef enum:
    EVENT_OCTETS = 64 << 20  # of data in the ring
    EVENT_CALL_ID = 256      # of a Call-ID in a call event; longer ones are cut
    EVENT_RING = 16384       # some seconds of call events at full load; the control thread drains ten times a second

cdef enum EventKind:
    EVENT_ASK
    EVENT_PROBE
    EVENT_REFUSED
    EVENT_SILENT
    EVENT_BUSY
    EVENT_CREDENTIALS        # an agent's digests are wanted
    EVENT_IN_STEP            # a server has every binding
    EVENT_OUT_OF_STEP
    EVENT_SETUP
    EVENT_RINGING
    EVENT_ANSWERED
    EVENT_FAILED
    EVENT_FAILOVER
    EVENT_ENDED
    EVENT_BINDING            # a change of a binding; only in the journal
    EVENT_STREAM             # a message for a connection; only in the ring of those


cdef struct EventRecord:
    EventKind kind
    int64_t time
    int slot
    int status
    int64_t handle
    int64_t value            # microseconds
    uint8_t* data            # owned by the record; NULL: none
    uint32_t length
    Flow flow                # of a stream message


cdef struct Events:
    EventRecord* ring
    uint32_t head            # written by the consumer
    uint32_t tail            # written by the producer
    uint64_t lost
    uint64_t put             # octets of data ever put in, by the producer
    uint64_t taken           # and taken out, by the consumer
    bint urgent              # something the control thread should see at once has been put in


cdef bint events_open(Events* events) noexcept nogil
cdef void events_close(Events* events) noexcept nogil
cdef void emit(Events* events, EventKind kind, int64_t now, int slot, int status, int64_t handle, int64_t value,
               const uint8_t* data, uint32_t length) noexcept nogil
cdef void put_stream_message(Events* events, const uint8_t* data, uint32_t length, const Flow* to) noexcept nogil
cdef list take_events(Events* events)
cdef bytes take_journal(Events* events)
cdef list take_stream_messages(Events* events)
