# SPDX-License-Identifier: Apache-2.0
"""What agents are authenticated by: their HA1 digests, and which nonces they have used (RFC 7616)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ubisip.core.digest cimport ALGORITHM_MD5, ALGORITHM_SHA256
from ubisip.core.token cimport SipHash, siphash_add, siphash_add_number, siphash_end, siphash_init


cdef extern from "memory.h" nogil:
    void* table_reserve(uint64_t octets) noexcept
    void table_close(void* memory, uint64_t octets) noexcept


cdef enum:
    INDEX_LEAST = 1024


cdef bint accounts_open(Accounts* accounts, uint32_t capacity) noexcept nogil:
    memset(accounts, 0, sizeof(Accounts))
    accounts.capacity = capacity
    accounts.mask = INDEX_LEAST - 1
    accounts.slab = <Account*>table_reserve((<uint64_t>capacity + 1) * sizeof(Account))
    accounts.index = <uint32_t*>calloc(INDEX_LEAST, sizeof(uint32_t))
    return accounts.slab != NULL and accounts.index != NULL


cdef void accounts_close(Accounts* accounts) noexcept nogil:
    table_close(accounts.slab, (<uint64_t>accounts.capacity + 1) * sizeof(Account))
    free(accounts.index)
    memset(accounts, 0, sizeof(Accounts))


cdef uint64_t account_key(const Accounts* accounts, const uint8_t* user, uint32_t user_length, const uint8_t* realm,
                          uint32_t realm_length) noexcept nogil:
    """Of a user in a realm; under a secret, since it stands for the names."""
    cdef SipHash h
    siphash_init(&h, accounts.secret)
    siphash_add_number(&h, <uint64_t>user_length << 32 | realm_length)
    siphash_add(&h, user, user_length)
    siphash_add(&h, realm, realm_length)
    return siphash_end(&h)


cdef const uint8_t* account_ha1(const Account* account, int algorithm) noexcept nogil:
    """H(A1) under *algorithm*, of which it must be known that the account has it."""
    return &account.ha1[0 if algorithm == ALGORITHM_MD5 else 16 + 32 * (algorithm - ALGORITHM_SHA256)]


cdef Account* find_account(const Accounts* accounts, uint64_t key) noexcept nogil:
    """NULL: not known here."""
    cdef uint32_t number = accounts.index[key & accounts.mask]
    while number:
        if accounts.slab[number].key == key:
            return &accounts.slab[number]
        number = accounts.slab[number].next
    return NULL


cdef void grow(Accounts* accounts) noexcept nogil:
    """Twice the index when it is full; without memory the chains get longer."""
    cdef uint32_t size = (accounts.mask + 1) * 2, number
    cdef uint32_t* index = <uint32_t*>calloc(size, sizeof(uint32_t))
    cdef Account* account
    if index == NULL:
        return
    free(accounts.index)
    accounts.index = index
    accounts.mask = size - 1
    for number in range(1, accounts.high + 1):
        account = &accounts.slab[number]
        if account.has:
            account.next = index[account.key & accounts.mask]
            index[account.key & accounts.mask] = number


cdef Account* put_account(Accounts* accounts, uint64_t key) noexcept nogil:
    """The account of *key*, made if there is none; the caller gives it at least one digest. NULL: no room."""
    cdef Account* account = find_account(accounts, key)
    cdef uint32_t number = accounts.spare
    if account != NULL:
        return account
    if number == 0 and accounts.high == accounts.capacity:
        return NULL
    if accounts.used > accounts.mask:
        grow(accounts)
    if number:
        accounts.spare = accounts.slab[number].next
    else:
        accounts.high += 1
        number = accounts.high
    account = &accounts.slab[number]
    memset(account, 0, sizeof(Account))
    account.key = key
    account.next = accounts.index[key & accounts.mask]
    accounts.index[key & accounts.mask] = number
    accounts.used += 1
    return account


cdef void remove_account(Accounts* accounts, uint64_t key) noexcept nogil:
    cdef uint32_t* at = &accounts.index[key & accounts.mask]
    cdef uint32_t number
    while at[0] and accounts.slab[at[0]].key != key:
        at = &accounts.slab[at[0]].next
    number = at[0]
    if number == 0:
        return
    at[0] = accounts.slab[number].next
    memset(&accounts.slab[number], 0, sizeof(Account))
    accounts.slab[number].next = accounts.spare
    accounts.spare = number
    accounts.used -= 1


cdef NonceUse use_nonce(Account* account, uint64_t nonce, uint32_t count) noexcept nogil:
    """Note that a nonce was used with a count; what was seen before is a replay (RFC 7616 section 5.5)."""
    cdef int i, oldest = 0
    for i in range(NONCES):
        if account.nonce[i] == nonce:
            if count <= account.count[i]:
                return NONCE_USED
            account.count[i] = count
            return NONCE_FRESH
        if account.nonce[i] < account.nonce[oldest]:
            oldest = i
    if nonce < account.floor:
        return NONCE_FORGOTTEN
    account.floor = max(account.floor, account.nonce[oldest] + 1)
    account.nonce[oldest] = nonce
    account.count[oldest] = count
    return NONCE_FRESH
