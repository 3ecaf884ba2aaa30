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

/* Address space whose pages come as they are used; NULL: there is none. */
static inline void *table_reserve(uint64_t octets) {
  void *memory = mmap(NULL, octets, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

/* NULL: there is none. */
static inline void *table_open(uint64_t octets) {
  void *memory = table_reserve(octets);
  if (!memory) return NULL;
  /* A wish: an older kernel refuses it, and all works the same. */
  (void)madvise(memory, octets < TABLE_AT_ONCE ? octets : TABLE_AT_ONCE, MADV_POPULATE_WRITE);
  return memory;
}

static inline void table_close(void *memory, uint64_t octets) {
  if (memory) munmap(memory, octets);
}
#endif
