# SPDX-License-Identifier: Apache-2.0
"""Slab, hash and lifetime of every transaction (RFC 3261 section 17), and the buffers they keep messages in."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from ubisip.core.message cimport SCAN_PADDING
from ubisip.core.timers cimport wheel_arm, wheel_close, wheel_disarm, wheel_open


cdef extern from "memory.h" nogil:
    void* table_open(uint64_t octets) noexcept
    void table_close(void* memory, uint64_t octets) noexcept


cdef uint32_t* CLASS_SIZES = [512, 1024, 2048, 4096, 16384, 65536 + 4096]
cdef uint32_t CHUNK = 64         # buffers of a small class taken from the system at a time


cdef struct Chunk:
    Chunk* next
    uint64_t unused              # keeps the buffers behind it aligned


cdef uint64_t buffer_size(uint32_t kind) noexcept nogil:
    return (sizeof(Buffer) + CLASS_SIZES[kind] + SCAN_PADDING + 15) & ~<uint64_t>15


cdef Buffer* take_large(Pool* pool, uint32_t kind) noexcept nogil:
    cdef uint64_t each = buffer_size(kind)
    cdef Buffer* buffer
    if pool.memory + each > pool.most:
        return NULL
    buffer = <Buffer*>malloc(each)
    if buffer != NULL:
        buffer.kind = kind
        pool.memory += each
    return buffer


cdef Buffer* grow(Pool* pool, uint32_t kind) noexcept nogil:
    """Take memory for more buffers of a class; NULL: the bound is reached, or there is none."""
    cdef uint64_t each = buffer_size(kind)
    cdef uint32_t i
    cdef Chunk* chunk
    cdef Buffer* buffer
    if pool.memory + each * CHUNK > pool.most:
        return NULL
    chunk = <Chunk*>malloc(sizeof(Chunk) + each * CHUNK)
    if chunk == NULL:
        return NULL
    chunk.next = <Chunk*>pool.chunks
    pool.chunks = chunk
    pool.memory += each * CHUNK
    for i in range(CHUNK):
        buffer = <Buffer*>(<uint8_t*>chunk + sizeof(Chunk) + i * each)
        buffer.kind = kind
        buffer.next = pool.spare[kind]
        pool.spare[kind] = buffer
    return pool.spare[kind]


cdef Buffer* keep(Pool* pool, const uint8_t* data, uint32_t size) noexcept nogil:
    """A copy of a message that outlives its datagram; NULL: the bound on memory is reached."""
    cdef uint32_t kind = 0
    cdef Buffer* buffer
    while CLASS_SIZES[kind] < size:
        kind += 1
        if kind == BUFFER_CLASSES:
            return NULL
    if kind >= SMALL_CLASSES:
        buffer = take_large(pool, kind)
    else:
        buffer = pool.spare[kind]
        if buffer == NULL:
            buffer = grow(pool, kind)
        if buffer != NULL:
            pool.spare[kind] = buffer.next
            foresee(buffer.next)  # the next one is asked for soon
    if buffer == NULL:
        return NULL
    pool.out += 1
    buffer.size = size
    memcpy(buffer.data, data, size)
    return buffer


cdef void release(Pool* pool, Buffer** buffer) noexcept nogil:
    if buffer[0] == NULL:
        return
    if buffer[0].kind >= SMALL_CLASSES:
        pool.memory -= buffer_size(buffer[0].kind)
        free(buffer[0])
    else:
        buffer[0].next = pool.spare[buffer[0].kind]
        pool.spare[buffer[0].kind] = buffer[0]
    buffer[0] = NULL
    pool.out -= 1


cdef bint transactions_open(Transactions* table, uint32_t capacity, int64_t now) noexcept nogil:
    """An empty table for *capacity* transactions at a time; False: no memory."""
    cdef uint32_t buckets = 1024
    memset(table, 0, sizeof(Transactions))
    table.capacity = min(capacity, <uint32_t>MAX_CAPACITY - 1)
    while buckets < table.capacity:
        buckets *= 2
    table.mask = buckets - 1
    table.slab = <Transaction*>table_open((<uint64_t>table.capacity + 1) * sizeof(Transaction))
    table.buckets = <uint32_t*>table_open(<uint64_t>buckets * sizeof(uint32_t))
    return table.slab != NULL and table.buckets != NULL and wheel_open(&table.wheel, table.capacity, now)


cdef void transactions_close(Transactions* table) noexcept nogil:
    cdef Chunk* chunk = <Chunk*>table.pool.chunks
    cdef Chunk* next
    cdef uint32_t index
    if table.slab != NULL:
        for index in range(1, table.high + 1):
            release(&table.pool, &table.slab[index].request)
            release(&table.pool, &table.slab[index].response)
            release(&table.pool, &table.slab[index].best)
    while chunk != NULL:
        next = chunk.next
        free(chunk)
        chunk = next
    table.pool.chunks = NULL
    table_close(table.slab, (<uint64_t>table.capacity + 1) * sizeof(Transaction))
    table_close(table.buckets, (<uint64_t>table.mask + 1) * sizeof(uint32_t))
    table.slab = NULL
    table.buckets = NULL
    wheel_close(&table.wheel)


cdef uint32_t create(Transactions* table, int machine, const uint64_t* key, int64_t now) noexcept nogil:
    """A new transaction; 0: the bound on transactions is reached."""
    cdef uint32_t index = table.spare, generation
    cdef uint32_t* bucket = &table.buckets[<uint32_t>key[0] & table.mask]
    cdef Transaction* t
    if index:
        table.spare = table.slab[index].chain
    elif table.high < table.capacity:
        table.high += 1
        index = table.high
    else:
        return 0
    t = &table.slab[index]
    generation = t.generation + 1
    memset(t, 0, sizeof(Transaction))
    t.generation = generation
    t.machine = <uint8_t>machine
    t.key[0] = key[0]
    t.key[1] = key[1]
    t.created = now
    t.slot = -1
    t.wanted = -1
    t.chain = bucket[0]
    bucket[0] = index
    table.used += 1
    return index


cdef void disown(Transactions* table, uint32_t index) noexcept nogil:
    """Take a client transaction out of its server transaction's list, or let a server transaction's clients go."""
    cdef Transaction* t = &table.slab[index]
    cdef uint32_t* at
    cdef uint32_t client
    if t.server:
        at = &table.slab[t.server].first
        while at[0] != index:
            at = &table.slab[at[0]].sibling
        at[0] = t.sibling
    client = t.first
    while client:
        table.slab[client].server = 0
        client = table.slab[client].sibling


cdef void destroy(Transactions* table, uint32_t index) noexcept nogil:
    cdef Transaction* t = &table.slab[index]
    cdef uint32_t* at = &table.buckets[<uint32_t>t.key[0] & table.mask]
    while at[0] != index:
        at = &table.slab[at[0]].chain
    at[0] = t.chain
    disown(table, index)
    wheel_disarm(&table.wheel, index)
    release(&table.pool, &t.request)
    release(&table.pool, &t.response)
    release(&table.pool, &t.best)
    t.generation += 1
    t.key[0] = t.key[1] = 0
    t.chain = table.spare
    table.spare = index
    table.used -= 1


cdef void adopt(Transactions* table, uint32_t server, uint32_t client) noexcept nogil:
    """Make *client* one of the client transactions of *server*."""
    table.slab[client].server = server
    table.slab[client].sibling = table.slab[server].first
    table.slab[server].first = client


cdef void schedule(Transactions* table, uint32_t index) noexcept nogil:
    """Hang the transaction into the wheel at the earliest of its timers."""
    cdef Transaction* t = &table.slab[index]
    cdef int64_t due = t.expire_at
    if t.retransmit_at and (due == 0 or t.retransmit_at < due):
        due = t.retransmit_at
    if t.give_up_at and (due == 0 or t.give_up_at < due):
        due = t.give_up_at
    if due:
        wheel_arm(&table.wheel, index, due)
    else:
        wheel_disarm(&table.wheel, index)


cdef int64_t handle_of(const Transactions* table, uint32_t index) noexcept nogil:
    return <int64_t>table.slab[index].generation << 20 | index


cdef uint32_t index_of(const Transactions* table, int64_t handle) noexcept nogil:
    """Number of the transaction a handle was given out for; 0: it has ended since."""
    cdef uint32_t index = <uint32_t>(handle & (MAX_CAPACITY - 1))
    if index == 0 or index > table.capacity or table.slab[index].generation != <uint32_t>(handle >> 20):
        return 0
    return index
