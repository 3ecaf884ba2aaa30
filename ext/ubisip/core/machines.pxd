# SPDX-License-Identifier: Apache-2.0
"""The four state machines of RFC 3261 section 17 with RFC 6026, as static tables."""
from libc.stdint cimport uint8_t, uint16_t

cdef enum Machine:
    CLIENT_INVITE            # figure 5 of RFC 6026 (RFC 3261 figure 5)
    CLIENT_OTHER             # RFC 3261 figure 6
    SERVER_INVITE            # figure 7 of RFC 6026 (RFC 3261 figure 7)
    SERVER_OTHER             # RFC 3261 figure 8
    MACHINES

cdef enum State:
    TRYING                   # "Calling" in the INVITE client machine
    PROCEEDING
    COMPLETED
    CONFIRMED
    ACCEPTED
    TERMINATED
    STATES

cdef enum Happening:
    # a client's
    GOT_1XX
    GOT_2XX
    GOT_FINAL                # 300-699
    # a server's
    GOT_REQUEST              # a retransmission
    GOT_ACK
    SEND_1XX                 # the TU's wish
    SEND_2XX
    SEND_FINAL
    # both
    TIMER_RETRANSMIT         # A, E, G
    TIMER_TIMEOUT            # B, F, H
    TIMER_WAIT               # D, I, J, K, L, M
    TRANSPORT_ERROR
    HAPPENINGS

cdef enum Action:
    DO_SEND = 1              # the request again, or the last response
    DO_ACK = 2
    DO_TELL = 4              # hand the response, the ACK or the failure to the proxy core
    DO_AGAIN = 8             # set the retransmission timer
    DO_STOP = 16             # stop it
    DO_TIMEOUT = 32          # set the timeout timer
    DO_WAIT = 64             # set the timer that ends the state
    DO_END = 128             # the transaction is destroyed
    WRONG = 256              # cannot happen: counted, nothing done

cdef struct Cell:
    uint8_t state
    uint16_t actions

cdef Cell machine_step(int machine, uint8_t state, int happening) noexcept nogil
