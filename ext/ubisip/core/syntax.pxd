# SPDX-License-Identifier: Apache-2.0
"""RFC 3261 section 25.1: character classes."""
from libc.stdint cimport uint8_t, uint32_t


cdef extern from "syntax.h" nogil:
    const uint8_t CLASS_TOKEN
    const uint8_t CLASS_DIGIT
    const uint8_t CLASS_HOST
    const uint8_t CLASS_LWS
    const uint8_t CLASS_URI
    const uint8_t CLASS_ALPHA
    const uint8_t CLASS_STOP
    bint character_is(uint8_t c, uint8_t class_bits) noexcept
    uint32_t run_of_uri(const uint8_t* data, uint32_t at, uint32_t end) noexcept
    uint32_t run_of_text(const uint8_t* data, uint32_t at, uint32_t end) noexcept
    uint32_t run_of_host(const uint8_t* data, uint32_t at, uint32_t end) noexcept
    uint32_t find_either(const uint8_t* data, uint32_t at, uint32_t end, uint8_t one, uint8_t other) noexcept
    uint32_t find_octet(const uint8_t* data, uint32_t at, uint32_t end, uint8_t wanted) noexcept
    uint32_t run_to_stop(const uint8_t* data, uint32_t at, uint32_t end) noexcept
    const uint8_t HEX_VALUE[256]
