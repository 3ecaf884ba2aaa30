/* SPDX-License-Identifier: Apache-2.0
 * Memory of the core's tables: zeroed, taken page by page as it is used; the first pages at once, so that a gateway that has
 * just started does not meet a page fault with every call. These are huge pages where the kernel has them: a look at a random
 * place costs a walk through the page tables otherwise, which is dear in a virtual machine. (Beyond, they were tried: zeroing
 * one while calls wait stalls the worker for longer than all that they save.) */
#ifndef UBISIP_MEMORY_H
#define UBISIP_MEMORY_H
#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
#define HUGE_PAGE ((uint64_t)2 << 20)
#define TABLE_AT_ONCE (4 * HUGE_PAGE)

/* Address space whose pages come as they are used, and which begins where a huge page may; NULL: there is none. */
static inline void *table_reserve(uint64_t octets) {
  octets = (octets + 4095) & ~(uint64_t)4095; /* what lies behind is given back, by whole pages */
  uint8_t *memory = mmap(NULL, octets + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return NULL;
  uint64_t before = -(uintptr_t)memory % HUGE_PAGE;
  if (before) munmap(memory, before);
  munmap(memory + before + octets, HUGE_PAGE - before);
  return memory + before;
}

/* NULL: there is none. */
static inline void *table_open(uint64_t octets) {
  void *memory = table_reserve(octets);
  if (!memory) return NULL;
  uint64_t at_once = octets < TABLE_AT_ONCE ? octets : TABLE_AT_ONCE;
  /* Wishes: an older kernel refuses them, and all works the same. */
  (void)madvise(memory, at_once, MADV_HUGEPAGE);
  (void)madvise(memory, at_once, MADV_POPULATE_WRITE);
  return memory;
}

/* Have it fetched into the cache while other work is done: a look into a large table costs as much as a thousand
 * instructions otherwise. */
static inline void foresee(const void *memory) { __builtin_prefetch(memory, 1); }

static inline void table_close(void *memory, uint64_t octets) {
  if (memory) munmap(memory, octets);
}
#endif
