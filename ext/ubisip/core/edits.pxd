# SPDX-License-Identifier: Apache-2.0
"""Changes to a message as a sorted list; the new datagram is spliced in one pass, untouched octets leave identical."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from ubisip.core.span cimport Span

cdef enum:
    MAX_EDITS = 48           # a request needs about ten; every removed Route value is one
    EDIT_TEXT = 8192         # octets of inserted text


cdef struct Edit:
    uint32_t at              # offset in the message
    uint32_t remove          # octets left out there
    uint32_t text            # offset of the inserted text in Edits.text
    uint32_t length


cdef struct Edits:
    Edit list[MAX_EDITS]
    int count
    bint overflow            # more was asked than fits: the message must not be sent
    char text[EDIT_TEXT + 32]  # and COPY_BEYOND of copy.h
    uint32_t used


cdef uint32_t splice(const Edits* edits, const uint8_t* data, uint32_t start, uint32_t end, uint8_t* out) noexcept nogil


cdef inline void edits_clear(Edits* edits) noexcept nogil:
    edits.count = 0
    edits.used = 0
    edits.overflow = False


cdef inline void edit(Edits* edits, uint32_t at, uint32_t remove, const char* text, uint32_t length) noexcept nogil:
    """Replace *remove* octets at *at* by *text*; edits at the same place keep the order in which they were made."""
    cdef int i = edits.count
    cdef Edit* slot
    if edits.count == MAX_EDITS or edits.used + length > EDIT_TEXT:
        edits.overflow = True
        return
    while i > 0 and edits.list[i - 1].at > at:
        edits.list[i] = edits.list[i - 1]
        i -= 1
    slot = &edits.list[i]
    slot.at = at
    slot.remove = remove
    slot.text = edits.used
    slot.length = length
    if length:
        memcpy(edits.text + edits.used, text, length)
    edits.used += length
    edits.count += 1


cdef inline void insert(Edits* edits, uint32_t at, const char* text, uint32_t length) noexcept nogil:
    edit(edits, at, 0, text, length)


cdef inline void insert_span(Edits* edits, uint32_t at, const uint8_t* data, Span span) noexcept nogil:
    edit(edits, at, 0, <const char*>(data + span.at), span.length)


cdef inline void delete(Edits* edits, uint32_t at, uint32_t end) noexcept nogil:
    edit(edits, at, end - at, NULL, 0)


cdef inline uint32_t edits_growth(const Edits* edits) noexcept nogil:
    """The most that a message can grow by them."""
    return edits.used
