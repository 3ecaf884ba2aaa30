/* SPDX-License-Identifier: Apache-2.0
 * Memory of the core's tables: zeroed, taken page by page as it is used; the first pages at once, so that a gateway that has
 * just started does not meet a page fault with every call. (Huge pages were tried: zeroing one stalls the worker for longer
 * than all that they save.) */
#ifndef UBISIP_MEMORY_H
#define UBISIP_MEMORY_H
#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#define TABLE_AT_ONCE ((uint64_t)8 << 20)
#define HUGE_PAGE ((uint64_t)2 << 20)

static inline uint64_t table_octets(uint64_t octets) {
  return octets < HUGE_PAGE / 4 ? octets : (octets + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
}

/* Address space whose pages come as they are used; NULL: there is none. */
static inline void *table_reserve(uint64_t octets) {
  void *memory = mmap(NULL, octets, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

/* Address space that begins where a huge page may. */
static inline uint8_t *table_reserve_aligned(uint64_t octets) {
  uint8_t *memory = table_reserve(octets + HUGE_PAGE);
  if (!memory) return NULL;
  uint64_t before = -(uintptr_t)memory % HUGE_PAGE;
  if (before) munmap(memory, before);
  munmap(memory + before + octets, HUGE_PAGE - before);
  return memory + before;
}

/* NULL: there is none. */
static inline void *table_open(uint64_t octets) {
  if (octets < HUGE_PAGE / 4) {
    void *memory = table_reserve(octets);
    if (memory) (void)madvise(memory, octets, MADV_POPULATE_WRITE);
    return memory;
  }
  octets = table_octets(octets);
  uint8_t *memory = table_reserve_aligned(octets);
  if (!memory) return NULL;
  uint64_t at_once = octets < TABLE_AT_ONCE ? octets : TABLE_AT_ONCE;
  (void)madvise(memory, at_once, MADV_HUGEPAGE);
  (void)madvise(memory, at_once, MADV_POPULATE_WRITE);
  return memory;
}

/* Have it fetched into the cache while other work is done: a look into a large table costs as much as a thousand
 * instructions otherwise. */
static inline void foresee(const void *memory) { __builtin_prefetch(memory, 1); }

static inline void table_close(void *memory, uint64_t octets) {
  if (memory) munmap(memory, table_octets(octets));
}
#endif
