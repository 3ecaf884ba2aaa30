# SPDX-License-Identifier: Apache-2.0
"""Slab, hash and lifetime of every transaction (RFC 3261 section 17), and the buffers they keep messages in."""
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ubisip.core.address cimport Flow
from ubisip.core.message cimport Method
from ubisip.core.timers cimport Wheel

cdef enum:
    BUFFER_CLASSES = 6
    SMALL_CLASSES = 4        # pooled; larger buffers are taken and given back one by one, so none is hoarded
    MAX_CAPACITY = 1 << 20   # a handle gives 20 bits to the index

cdef enum Flag:
    # of a server transaction
    CANCELLED = 1            # the client sent CANCEL
    PARKED = 2               # waits for the decision of a hook
    EMERGENCY_CALL = 4       # never shed, queued or limited
    FIXED = 8                # in a dialog or by an explicit Route: there is no other destination to try
    NEW_CALL = 16            # an INVITE outside a dialog: counted, and its events recorded
    RANG = 32                # the first ringing or answer has been measured
    # of a client transaction
    ABANDONED = 64           # silent for too long: another destination was tried
    WANT_CANCEL = 128        # CANCEL as soon as a provisional response allows it (RFC 3261 section 9.1)
    CANCEL_SENT = 256
    OWN_CANCEL = 512         # it is a CANCEL of ours
    PROBE = 1024             # an OPTIONS of ours
    IN_SETUP = 2048          # counted in its destination's load
    WANTS_CREDENTIALS = 8192  # server: a REGISTER that waits for its agent's digests
    MIRRORED = 16384         # client: a REGISTER of ours that tells a server of a binding; server: it waits for these
    TO_AGENT = 32768         # server: its targets are bindings; client: it goes to an agent
    OVERDUE = 4096           # server: its final response found no room in the outbox; it is tried again


cdef struct Buffer:
    Buffer* next             # in the pool's list
    uint32_t size            # octets in use
    uint32_t kind            # size class
    uint8_t data[1]          # readable for SCAN_PADDING octets beyond size


cdef struct Pool:
    Buffer* spare[BUFFER_CLASSES]
    uint64_t memory          # octets ever taken from the system
    uint64_t most            # bound on it
    uint32_t out             # buffers in use
    void* chunks             # list of what to give back at the end


cdef enum:                   # in the place of a peer's slot: where a request came from
    PEER_AGENT = -2          # a registered agent
    PEER_GATEWAY = -3        # another gateway of ours, which knows that a flow here leads to the agent


cdef struct Transaction:
    uint64_t key[2]
    uint32_t chain           # next in its bucket, or next free
    uint32_t generation      # tells a handle kept too long from a live one
    uint8_t machine
    uint8_t state
    uint8_t attempt          # client: which try; server: how many tries so far
    uint8_t method
    uint16_t flags
    uint16_t status          # the last one received or sent
    int16_t slot             # client: destination; server: the peer it came from
    uint16_t best_status     # server: the best final response so far (RFC 3261 section 16.7 step 6); 0: none
    uint8_t side             # server: which side's destinations are tried
    uint64_t agent           # server: the agent it came from; client: the one it goes to; 0: none
    uint32_t reg_id          # client: by which of the agent's flows
    int16_t wanted           # server: the destination a hook decided on; -1: none
    uint32_t server          # client: its server transaction; 0: none
    uint32_t first           # server: its first client transaction
    uint32_t sibling         # client: the next one of the same server transaction
    uint32_t interval        # of the retransmission timer, microseconds
    uint32_t t1
    int64_t retransmit_at    # A, E, G; 0: not running
    int64_t expire_at        # B, C, D, F, H, I, J, K, L, M
    int64_t give_up_at       # first_response_timeout; the 100 of RFC 4320; a hook's deadline
    int64_t created
    uint64_t call            # hash of the Call-ID
    uint32_t cseq            # client: the CSeq number sent
    uint64_t tried[4]        # server: destinations tried, a bit each
    Flow flow                # server: where responses go; client: where the request went
    Buffer* request          # server: as received; client: as sent (later: the ACK)
    Buffer* response         # server: the last response sent
    Buffer* best             # server: the best final response, ready to go


cdef struct Transactions:
    Transaction* slab        # numbered from 1
    uint32_t* buckets
    uint32_t mask
    uint32_t spare           # first free number
    uint32_t high            # numbers ever used
    uint32_t used
    uint32_t capacity
    Wheel wheel
    Pool pool


cdef bint transactions_open(Transactions* table, uint32_t capacity, int64_t now) noexcept nogil
cdef void transactions_close(Transactions* table) noexcept nogil
cdef uint32_t create(Transactions* table, int machine, const uint64_t* key, int64_t now) noexcept nogil
cdef void destroy(Transactions* table, uint32_t index) noexcept nogil
cdef void adopt(Transactions* table, uint32_t server, uint32_t client) noexcept nogil
cdef void schedule(Transactions* table, uint32_t index) noexcept nogil
cdef int64_t handle_of(const Transactions* table, uint32_t index) noexcept nogil
cdef uint32_t index_of(const Transactions* table, int64_t handle) noexcept nogil

cdef Buffer* keep(Pool* pool, const uint8_t* data, uint32_t size) noexcept nogil
cdef void release(Pool* pool, Buffer** buffer) noexcept nogil


cdef extern from "memory.h" nogil:
    void foresee(const void* memory) noexcept


cdef inline void foresee_transaction(const Transactions* table, const uint64_t* key) noexcept nogil:
    foresee(&table.buckets[<uint32_t>key[0] & table.mask])


cdef inline uint32_t find(const Transactions* table, const uint64_t* key) noexcept nogil:
    """Number of the transaction with this key; 0: none."""
    cdef uint32_t index = table.buckets[<uint32_t>key[0] & table.mask]
    while index:
        if table.slab[index].key[0] == key[0] and table.slab[index].key[1] == key[1]:
            return index
        index = table.slab[index].chain
    return 0
