/* SPDX-License-Identifier: Apache-2.0
 * The two memory orders a single-producer, single-consumer ring needs. */
#ifndef UBISIP_RING_H
#define UBISIP_RING_H
#include <stdint.h>
static inline uint32_t load_acquire(const uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline uint64_t load_acquire_long(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
static inline void store_release_long(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
static inline void store_release(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
#endif
