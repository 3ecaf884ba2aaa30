# SPDX-License-Identifier: Apache-2.0
"""The thread that carries the calls: epoll, recvmmsg, engine, sendmmsg, without the GIL (DESIGN section 4)."""
from libc.errno cimport EAGAIN, errno
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, clock_gettime, nanosleep, timespec
from posix.unistd cimport close, read, write

import os
import threading

from ubisip.core.address cimport ANY_STREAM, Address, Flow, address_from_text
from ubisip.core.engine cimport (
    close_proxy, credential_letter, engine_advance, engine_credentials, engine_decide, engine_next_timer, engine_probe,
    engine_handle, engine_read, engine_receive, engine_restore, engine_share, engine_stream_closed, engine_swap,
    engine_transport_error, open_proxy, proxy_statistics,
)
from ubisip.core.events cimport put_stream_message, take_events, take_journal, take_stream_messages
from ubisip.core.outbox cimport Outgoing, outbox_clear, outbox_nearly_full
from ubisip.core.proxy cimport DATAGRAM, SHED_REGISTERS, Proxy
from ubisip.core.rows cimport ended_letter, read_bindings, shared_letter
from ubisip.core.snapshot cimport DESTINATIONS, LISTENERS, PlatformView, Snapshot


cdef extern from "ring.h" nogil:
    uint32_t load_acquire(const uint32_t* word) noexcept
    void store_release(uint32_t* word, uint32_t value) noexcept


# The few system structures; their insides stay in the header.
cdef extern from "socket.h" nogil:
    ctypedef struct incoming_t:
        pass
    incoming_t* incoming_open(uint32_t room) noexcept
    void incoming_close(incoming_t* batch) noexcept
    int incoming_receive(incoming_t* batch, int fd) noexcept
    bint incoming_full(const incoming_t* batch) noexcept
    uint8_t* incoming_data(incoming_t* batch, int i, uint32_t* size) noexcept
    void incoming_from(incoming_t* batch, int i, uint8_t* ip, uint16_t* port) noexcept
    ctypedef struct outgoing_t:
        int used
    outgoing_t* outgoing_open() noexcept
    void outgoing_clear(outgoing_t* batch) noexcept
    bint outgoing_full(const outgoing_t* batch) noexcept
    void outgoing_add(outgoing_t* batch, uint8_t* data, uint32_t size, const uint8_t* ip, uint16_t port,
                      uint64_t call) noexcept
    int outgoing_datagrams(const outgoing_t* batch, int first, int count) noexcept
    int outgoing_send(outgoing_t* batch, int fd, int first) noexcept
    bint outgoing_refused(const outgoing_t* batch, int i) noexcept
    int outgoing_send_apart(outgoing_t* batch, int fd, int i) noexcept
    int read_error(int fd, uint8_t* data, uint32_t room, uint32_t* size, uint8_t* ip, uint16_t* port) noexcept
    int receive_errors(int fd, int on) noexcept
    int watch(int epoll, int fd) noexcept
    int epoll_open() noexcept
    int wait_for(int epoll, int wake, int milliseconds) noexcept
    int event_open() noexcept
    void sharp_timers() noexcept


cdef enum:
    MAILBOX = 8192           # letters on their way to the worker; a full box refuses, and the control thread says so
    BATCHES_A_TURN = 16      # datagrams of one socket before the timers and the other sockets have their turn
    IDLE_TURNS = 1           # empty turns after which the worker sleeps in epoll instead of looking again
    LATELY = 5000            # microseconds: datagrams that come so soon after others are let gather
    TURN_MOST = 500          # milliseconds: it shows that it lives at least twice a second
    ERRORS_A_TURN = 64
    LEISURE = 32             # turns that brought nothing but REGISTERs, after which these gather
    LEISURELY = 48           # times as long: an agent's phone waits for milliseconds, not its user
    CROWDED = 5000           # microseconds of work without seeing every socket empty: registrations are put off
    BEHIND = 20000           # microseconds likewise, of time: new calls are shed until it has caught up,
    STORM = 250000           # later while registrations are put off, which is cheap: calls are not to pay for them
    STOOD = 10000            # of a longer pause no more counts: when the machine stood, that was not for too many calls


cdef enum LetterKind:
    LETTER_SWAP
    LETTER_KEYS
    LETTER_DECIDE
    LETTER_PROBE
    LETTER_STREAM            # a message that came over a connection
    LETTER_STREAM_FAILED     # one that could not be sent over any
    LETTER_STREAM_CLOSED     # a connection has ended
    LETTER_CREDENTIALS       # what was found out about a user
    LETTER_BINDING           # another gateway's binding was made, refreshed, or has ended


cdef struct Letter:
    LetterKind kind
    const PlatformView* view
    int slot
    int64_t handle
    int64_t timeout
    Flow flow                # where a stream message came from, or could not be sent to
    uint8_t* data            # readable for 64 octets beyond its length; the worker frees it
    uint32_t length


cdef int64_t clock() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef int64_t own_time() noexcept nogil:
    """Of this thread, on a processor."""
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <int64_t>now.tv_sec * 1000000 + now.tv_nsec // 1000


cdef class Worker:
    """The thread that carries the calls: epoll, recvmmsg, engine, sendmmsg, without the GIL."""

    cdef Proxy* proxy
    cdef incoming_t* incoming
    cdef outgoing_t* outgoing
    cdef int fds[LISTENERS]
    cdef int fd_count
    cdef int epoll
    cdef int wake            # control to worker: a letter is in the box
    cdef int tell            # worker to control: events wait
    cdef int64_t coalesce    # microseconds
    cdef int64_t brought     # when a turn last brought datagrams
    cdef bint failed         # a send was told an error: the error queues have something
    cdef int64_t alive
    cdef int64_t busy
    cdef int leisure         # turns in a row without a call
    cdef int64_t caught_up   # when every socket was last seen empty
    cdef int64_t worked      # its own processor time after the first full batch since; 0: there was none
    cdef int64_t late        # microseconds since then, pauses left out
    cdef int64_t looked      # when that was counted last
    cdef uint64_t put_off    # registrations put off until then
    cdef uint64_t batches, received, sent, together, send_errors
    cdef Letter* box
    cdef uint32_t box_head
    cdef uint32_t box_tail
    cdef uint32_t stopping
    cdef uint32_t applied    # snapshots taken over so far
    cdef uint32_t retired
    cdef list snapshots      # those the worker may still read, the oldest first
    cdef object thread

    def __cinit__(self, sockets, Snapshot snapshot not None, keys, *, double coalesce=0.0005):
        cdef int i
        self.epoll = self.wake = self.tell = -1
        self.proxy = open_proxy(snapshot, keys, clock())
        self.incoming = incoming_open(DATAGRAM + 64)
        self.outgoing = outgoing_open()
        self.box = <Letter*>calloc(MAILBOX, sizeof(Letter))
        if self.incoming == NULL or self.outgoing == NULL or self.box == NULL:
            raise MemoryError
        self.snapshots = [snapshot]
        self.coalesce = <int64_t>(coalesce * 1e6)
        self.epoll = epoll_open()
        self.wake = event_open()
        self.tell = event_open()
        if self.epoll < 0 or self.wake < 0 or self.tell < 0 or watch(self.epoll, self.wake) != 0:
            raise OSError(errno, os.strerror(errno))
        if len(sockets) > LISTENERS:
            raise ValueError(f"a gateway has at most {LISTENERS} listeners")
        for i in range(LISTENERS):
            self.fds[i] = -1
        self.fd_count = len(sockets)
        for i, each in enumerate(sockets):
            if each is None:
                continue
            each.setblocking(False)
            self.fds[i] = each.fileno()
            if receive_errors(self.fds[i], 1) != 0 or watch(self.epoll, self.fds[i]) != 0:
                raise OSError(errno, os.strerror(errno))
        self.alive = clock()

    def __dealloc__(self):
        cdef uint32_t at
        close_proxy(self.proxy)
        incoming_close(self.incoming)
        free(self.outgoing)
        if self.box != NULL:
            for at in range(self.box_head, self.box_tail):
                free(self.box[at % MAILBOX].data)
            free(self.box)
        for fd in (self.epoll, self.wake, self.tell):
            if fd >= 0:
                close(fd)

    # --- the control thread's side

    def start(self):
        self.thread = threading.Thread(target=self._run, name="ubisip-worker", daemon=True)
        self.thread.start()

    def stop(self):
        store_release(&self.stopping, 1)
        self._ring()
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def fileno(self):
        return self.tell

    def events(self):
        cdef uint64_t count
        read(self.tell, &count, 8)  # empty when nothing was urgent: that is no error
        return take_events(&self.proxy.events)

    cdef _ring(self):
        cdef uint64_t one = 1
        if write(self.wake, &one, 8) != 8 and errno != EAGAIN:
            raise OSError(errno, os.strerror(errno))

    cdef Letter* _letter(self) except NULL:
        if self.box_tail - load_acquire(&self.box_head) == MAILBOX:
            raise BufferError("the worker's mailbox is full: it does not keep up, or does not run")
        memset(&self.box[self.box_tail % MAILBOX], 0, sizeof(Letter))
        return &self.box[self.box_tail % MAILBOX]

    cdef _post(self):
        store_release(&self.box_tail, self.box_tail + 1)
        self._ring()

    cdef uint8_t* _copy(self, bytes data) except NULL:
        cdef uint8_t* copy = <uint8_t*>calloc(1, len(data) + 64)
        if copy == NULL:
            raise MemoryError
        memcpy(copy, <const char*>data, len(data))
        return copy

    def swap(self, Snapshot snapshot not None):
        cdef Letter* letter = self._letter()
        letter.kind = LETTER_SWAP
        letter.view = snapshot.view
        while self.retired != load_acquire(&self.applied):
            del self.snapshots[0]
            self.retired += 1
        self.snapshots.append(snapshot)
        self._post()

    def set_keys(self, keys):
        cdef Letter* letter = self._letter()
        cdef bytes ring = b"".join(keys)
        if not keys or len(keys) > 4 or any(len(key) != 16 for key in keys):
            raise ValueError("a key ring has 1 to 4 keys of 16 octets")
        letter.kind = LETTER_KEYS
        letter.data = self._copy(ring)
        letter.length = <uint32_t>len(ring)
        self._post()

    def decide(self, int64_t handle, int destination):
        cdef Letter* letter = self._letter()
        letter.kind = LETTER_DECIDE
        letter.handle = handle
        letter.slot = destination
        self._post()

    def probe(self, int destination, bytes data not None, int64_t handle, double timeout):
        cdef Letter* letter = self._letter()
        if len(data) >= DATAGRAM or not 0 <= destination < DESTINATIONS:
            raise ValueError("no such destination, or too long a request")
        letter.kind = LETTER_PROBE
        letter.slot = destination
        letter.handle = handle
        letter.timeout = <int64_t>(timeout * 1e6)
        letter.data = self._copy(data)
        letter.length = <uint32_t>len(data)
        self._post()

    def receive_stream(self, bytes data not None, uint32_t stream, tuple peer not None, int listener):
        cdef Letter* letter
        if not 0 < stream < ANY_STREAM or not 0 <= listener < self.fd_count or len(data) >= DATAGRAM:
            raise ValueError("no such connection or listener, or too long a message")
        letter = self._letter()
        if not address_from_text(peer[0], peer[1], &letter.flow.peer):
            raise ValueError(f"{peer[0]} is no address")
        letter.kind = LETTER_STREAM
        letter.flow.stream = stream
        letter.flow.listener = <uint8_t>listener
        letter.data = self._copy(data)
        letter.length = <uint32_t>len(data)
        self._post()

    def stream_messages(self):
        return take_stream_messages(&self.proxy.streams)

    def stream_failed(self, bytes data not None, tuple address not None):
        cdef Letter* letter = self._letter()
        if not address_from_text(address[0], address[1], &letter.flow.peer):
            raise ValueError(f"{address[0]} is no address")
        letter.kind = LETTER_STREAM_FAILED
        letter.data = self._copy(data)
        letter.length = <uint32_t>len(data)
        self._post()

    def stream_closed(self, uint32_t stream):
        cdef Letter* letter = self._letter()
        letter.kind = LETTER_STREAM_CLOSED
        letter.flow.stream = stream
        self._post()

    def credential(self, str user, str realm, bytes md5, bytes sha256, bytes sha512_256, bint known, double lifetime):
        letter, has = credential_letter(user, realm, md5, sha256, sha512_256, known)
        self._credentials(letter, has, False, lifetime)

    def credential_failed(self, str user, str realm):
        self._credentials(credential_letter(user, realm, b"", b"", b"", False)[0], 0, True, 0.0)

    cdef _credentials(self, bytes data, int has, bint failed, double lifetime):
        cdef Letter* letter
        cdef int64_t microseconds = 0 if lifetime == INFINITY else max(1, <int64_t>(lifetime * 1e6))
        if self.thread is None:
            engine_credentials(self.proxy, <const uint8_t*><const char*>data, <uint32_t>len(data), has, failed,
                               microseconds, clock())
            return
        letter = self._letter()
        letter.kind = LETTER_CREDENTIALS
        letter.slot = has
        letter.handle = failed
        letter.timeout = microseconds
        letter.data = self._copy(data)
        letter.length = <uint32_t>len(data)
        self._post()

    def take_journal(self):
        return take_journal(&self.proxy.journal)

    def journal_lost(self):
        return self.proxy.journal.lost

    def bindings(self, uint32_t after=0, uint32_t limit=256, uint32_t home=0):
        return read_bindings(&self.proxy.bindings, after, limit, home)

    def share(self, row, uint32_t home, str hop):
        self._share(shared_letter(row, home, hop))

    def end_shared(self, str aor, str contact, str instance, uint32_t reg_id, uint32_t home):
        self._share(ended_letter(aor, contact, instance, reg_id, home))

    cdef _share(self, bytes data):
        cdef Letter* letter = self._letter()
        letter.kind = LETTER_BINDING
        letter.data = self._copy(data)
        letter.length = <uint32_t>len(data)
        self._post()

    def restore(self, rows):
        if self.thread is not None:
            raise RuntimeError("bindings are put back before the worker starts")
        return engine_restore(self.proxy, rows, clock())

    def successes(self):
        cdef int slot
        return {slot: self.proxy.targets.load[slot].successes for slot in range(self.proxy.view.destination_count)}

    def statistics(self):
        statistics = proxy_statistics(self.proxy)
        statistics["worker"] = {
            "batches": self.batches, "received": self.received, "sent": self.sent, "together": self.together,
            "send_errors": self.send_errors, "busy": self.busy / 1e6,
        }
        statistics["alive"] = self.alive / 1e6
        return statistics

    # --- the worker's side

    def _run(self):
        with nogil:
            sharp_timers()
            self.loop()

    cdef void loop(self) noexcept nogil:
        cdef int idle = IDLE_TURNS, got
        cdef bint slept
        cdef int64_t now
        self.caught_up = self.looked = clock()
        while not load_acquire(&self.stopping):
            slept = idle >= IDLE_TURNS or self.coalesce == 0
            if slept:
                self.sleep()
            else:
                self.gather()
            now = clock()
            self.alive = now
            self.open_letters(now)
            got = self.receive_all(now)
            if self.failed or (slept and got == 0):
                self.read_all_errors(now)
            while engine_advance(self.proxy, now):
                self.send_all()
            self.send_all()
            if self.proxy.events.urgent or self.proxy.streams.urgent:
                self.tell_control()
            self.busy += clock() - now
            idle = 0 if got else idle + 1
            if self.proxy.hurried:
                self.leisure = 0
            elif got and self.leisure < LEISURE:
                self.leisure += 1
            self.proxy.hurried = False

    cdef void sleep(self) noexcept nogil:
        """Until a datagram, a letter or a timer; under load what comes behind the first datagram is waited for."""
        cdef int64_t due = engine_next_timer(self.proxy), wait = TURN_MOST
        if due >= 0:
            wait = min(wait, max(0, (due - clock() + 999) // 1000))
        wait = wait_for(self.epoll, self.wake, <int>wait)
        self.caught_up = clock()
        if wait > 0 and self.coalesce and self.caught_up - self.brought < LATELY:
            self.gather()

    cdef void gather(self) noexcept nogil:
        """Under load, let datagrams gather: one wake and two system calls then serve a batch."""
        cdef timespec pause
        pause.tv_sec = 0
        pause.tv_nsec = self.coalesce * 1000 * (LEISURELY if self.leisure >= LEISURE else 1)
        if clock() - self.caught_up < self.coalesce:
            nanosleep(&pause, NULL)

    cdef void open_letters(self, int64_t now) noexcept nogil:
        cdef uint32_t tail = load_acquire(&self.box_tail)
        cdef Letter* letter
        while self.box_head != tail:
            letter = &self.box[self.box_head % MAILBOX]
            self.open_letter(letter, now)
            free(letter.data)
            letter.data = NULL
            if outbox_nearly_full(&self.proxy.outbox):
                self.send_all()
            store_release(&self.box_head, self.box_head + 1)

    cdef void open_letter(self, const Letter* letter, int64_t now) noexcept nogil:
        cdef uint32_t i
        if letter.kind == LETTER_SWAP:
            engine_swap(self.proxy, letter.view, now)
            store_release(&self.applied, self.applied + 1)
        elif letter.kind == LETTER_KEYS:
            for i in range(letter.length // 16):
                memcpy(self.proxy.keys.key[i], letter.data + 16 * i, 16)
            self.proxy.keys.count = <int>(letter.length // 16)
        elif letter.kind == LETTER_DECIDE:
            engine_decide(self.proxy, letter.handle, letter.slot, now)
        elif letter.kind == LETTER_STREAM:
            engine_receive(self.proxy, letter.data, letter.length, &letter.flow, now)
        elif letter.kind == LETTER_CREDENTIALS:
            engine_credentials(self.proxy, letter.data, letter.length, letter.slot, letter.handle != 0, letter.timeout,
                               now)
        elif letter.kind == LETTER_BINDING:
            engine_share(self.proxy, letter.data, now)
        elif letter.kind == LETTER_STREAM_FAILED:
            engine_transport_error(self.proxy, letter.data, letter.length, &letter.flow.peer, now)
        elif letter.kind == LETTER_STREAM_CLOSED:
            engine_stream_closed(self.proxy, letter.flow.stream, now)
        else:
            engine_probe(self.proxy, letter.slot, letter.data, letter.length, letter.handle, letter.timeout, now)

    cdef int receive_all(self, int64_t now) noexcept nogil:
        """Drain every socket, sending after each batch; gives the number of datagrams."""
        cdef int i, total = 0
        cdef bint empty = True
        for i in range(self.fd_count):
            if self.fds[i] >= 0:
                total += self.receive_from(i, now, &empty)
        if empty:
            self.caught_up = clock()
            self.worked = 0
            self.late = 0
            self.looked = self.caught_up
            self.put_off = self.proxy.counters[SHED_REGISTERS]
            self.proxy.overloaded = self.proxy.crowded = False
            return total
        if self.late > (STORM if self.proxy.counters[SHED_REGISTERS] != self.put_off else BEHIND):
            self.proxy.overloaded = True
        return total

    cdef int receive_from(self, int listener, int64_t now, bint* empty) noexcept nogil:
        cdef int _turn, count, i, total = 0, errors = 0
        for _turn in range(BATCHES_A_TURN):
            count = incoming_receive(self.incoming, self.fds[listener])
            if count < 0:
                # With IP_RECVERR a pending ICMP error is told by whatever call comes next.
                if errno == EAGAIN or errors == ERRORS_A_TURN:
                    return total
                errors += 1
                self.read_errors(self.fds[listener], now)
                continue
            self.batches += 1
            self.received += count
            self.brought = now
            total += count
            self.read_one(0)
            for i in range(count):
                if i + 1 < count:
                    self.read_one(i + 1)
                self.handle_one(i, listener, now)
            self.send_all()
            if not incoming_full(self.incoming):
                return total
            now = clock()
            self.late += min(now - self.looked, STOOD)
            self.looked = now
            if self.worked == 0:
                self.worked = own_time()
            elif own_time() - self.worked > CROWDED:
                self.proxy.crowded = True
        empty[0] = False
        return total

    cdef void read_one(self, int i) noexcept nogil:
        cdef uint32_t size
        cdef uint8_t* data = incoming_data(self.incoming, i, &size)
        engine_read(self.proxy, i & 1, data, size)

    cdef void handle_one(self, int i, int listener, int64_t now) noexcept nogil:
        cdef Flow flow
        cdef uint32_t size
        cdef uint8_t* data = incoming_data(self.incoming, i, &size)
        incoming_from(self.incoming, i, flow.peer.ip, &flow.peer.port)
        flow.listener = <uint8_t>listener
        flow.stream = 0
        engine_handle(self.proxy, i & 1, data, size, &flow, now)

    cdef void read_all_errors(self, int64_t now) noexcept nogil:
        """An error told to a send, or one that woke us alone, still waits in its socket's queue."""
        cdef int i
        self.failed = False
        for i in range(self.fd_count):
            if self.fds[i] >= 0:
                self.read_errors(self.fds[i], now)

    cdef void read_errors(self, int fd, int64_t now) noexcept nogil:
        """What came back by ICMP: each error quotes the datagram it is about."""
        cdef Address to
        cdef uint8_t quoted[1600]
        cdef uint32_t size
        cdef int _i
        for _i in range(ERRORS_A_TURN):
            if not read_error(fd, quoted, sizeof(quoted), &size, to.ip, &to.port):
                return
            engine_transport_error(self.proxy, quoted, size, &to, now)

    cdef void send_all(self) noexcept nogil:
        """Send the outbox, as many datagrams a call as go to one socket in a row: in order, but for responses that join
        others of their size."""
        cdef uint32_t at = 0, count = self.proxy.outbox.count
        cdef Outgoing* out
        cdef int fd
        cdef uint8_t listener
        while at < count:
            out = &self.proxy.outbox.datagrams[at]
            if out.to.stream:
                put_stream_message(&self.proxy.streams, out.data, out.size, &out.to)
                at += 1
                continue
            listener = out.to.listener
            fd = self.fds[listener] if listener < self.fd_count else -1
            outgoing_clear(self.outgoing)
            while at < count and not outgoing_full(self.outgoing):
                out = &self.proxy.outbox.datagrams[at]
                if out.to.stream or out.to.listener != listener:
                    break
                outgoing_add(self.outgoing, out.data, out.size, out.to.peer.ip, out.to.peer.port, out.call)
                at += 1
            self.send_batch(fd)
        outbox_clear(&self.proxy.outbox)

    cdef void send_batch(self, int fd) noexcept nogil:
        cdef int at = 0, done, datagrams, tries = 0
        while at < self.outgoing.used:
            done = outgoing_send(self.outgoing, fd, at) if fd >= 0 else -1
            if done > 0:
                datagrams = outgoing_datagrams(self.outgoing, at, done)
                self.sent += datagrams
                self.together += datagrams - done
                at += done
                tries = 0
            elif fd >= 0 and outgoing_refused(self.outgoing, at):
                done = outgoing_send_apart(self.outgoing, fd, at)
                self.sent += done
                self.send_errors += outgoing_datagrams(self.outgoing, at, 1) - done
                at += 1
            elif fd >= 0 and tries < 2:
                self.failed = True
                tries += 1  # an ICMP error of an earlier datagram was told: this one was not tried yet
            else:
                self.send_errors += outgoing_datagrams(self.outgoing, at, 1)
                at += 1
                tries = 0

    cdef void tell_control(self) noexcept nogil:
        cdef uint64_t one = 1
        self.proxy.events.urgent = self.proxy.streams.urgent = False
        write(self.tell, &one, 8)
