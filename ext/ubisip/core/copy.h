/* SPDX-License-Identifier: Apache-2.0
 * Copies of a few octets, as most are that a message is put together from: a call of memcpy costs more than they do. */
#ifndef UBISIP_COPY_H
#define UBISIP_COPY_H
#include <stdint.h>
#include <string.h>

#define COPY_BEYOND 32 /* octets that must be readable behind those copied, and may be overwritten behind the copy */

static inline void copy_octets(uint8_t *out, const uint8_t *data, uint32_t length) {
  if (length > COPY_BEYOND)
    memcpy(out, data, length);
  else if (length)
    memcpy(out, data, COPY_BEYOND);
}
#endif
