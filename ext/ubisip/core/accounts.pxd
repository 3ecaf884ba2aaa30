# SPDX-License-Identifier: Apache-2.0
"""What agents are authenticated by: their HA1 digests, and which nonces they have used (RFC 7616)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    NONCES = 4               # of one user at a time: phones of one user each have their own

cdef enum NonceUse:
    NONCE_FRESH              # this nonce with this count was not used before
    NONCE_USED               # it was
    NONCE_FORGOTTEN          # it may have been: it is older than those we remember


cdef struct Account:
    uint64_t key             # hash of user and realm
    uint32_t next            # in its chain
    uint8_t has              # a bit for each algorithm
    uint8_t ha1[80]          # of 16, 32 and 32 octets, by Algorithm
    int64_t good_until       # microseconds: when its source is asked again
    uint64_t nonce[4]        # the nonces last used: seconds and salt, in the order of their issue; 0: none
    uint64_t floor           # nonces issued before are no longer remembered
    uint32_t count[4]        # the highest nonce count of each


cdef struct Accounts:
    Account* slab            # numbered from 1
    uint32_t* index
    uint32_t mask
    uint32_t capacity
    uint32_t used
    uint32_t high
    uint32_t spare
    uint64_t secret[2]


cdef bint accounts_open(Accounts* accounts, uint32_t capacity) noexcept nogil
cdef void accounts_close(Accounts* accounts) noexcept nogil
cdef uint64_t account_key(const Accounts* accounts, const uint8_t* user, uint32_t user_length, const uint8_t* realm,
                          uint32_t realm_length) noexcept nogil
cdef const uint8_t* account_ha1(const Account* account, int algorithm) noexcept nogil
cdef Account* find_account(const Accounts* accounts, uint64_t key) noexcept nogil
cdef Account* put_account(Accounts* accounts, uint64_t key) noexcept nogil
cdef void remove_account(Accounts* accounts, uint64_t key) noexcept nogil
cdef NonceUse use_nonce(Account* account, uint64_t nonce, uint32_t count) noexcept nogil
