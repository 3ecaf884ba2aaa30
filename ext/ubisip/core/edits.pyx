# SPDX-License-Identifier: Apache-2.0
"""Changes to a message as a sorted list; the new datagram is spliced in one pass, untouched octets leave identical."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy


cdef extern from "copy.h" nogil:
    void copy_octets(uint8_t* out, const uint8_t* data, uint32_t length) noexcept


cdef uint32_t splice(const Edits* edits, const uint8_t* data, uint32_t start, uint32_t end,
                     uint8_t* out) noexcept nogil:
    """Write the octets from *start* to *end* with the edits that fall between them; gives the length written.

    COPY_BEYOND octets behind *end* must be readable, and as many behind what is written may be overwritten.
    """
    cdef uint32_t at = start, length = 0
    cdef const Edit* each
    cdef int i
    for i in range(edits.count):
        each = &edits.list[i]
        if each.at < at or each.at > end:
            continue
        copy_octets(out + length, data + at, each.at - at)
        length += each.at - at
        copy_octets(out + length, <const uint8_t*>edits.text + each.text, each.length)
        length += each.length
        at = each.at + each.remove
    if at < end:
        memcpy(out + length, data + at, end - at)
        length += end - at
    return length
