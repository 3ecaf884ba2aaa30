# SPDX-License-Identifier: Apache-2.0
"""TLS for streams (RFC 3261 section 26.3.1): certificates by host name, and one connection as octets in, octets out.

A connection keeps the certificate it began with; new ones take the latest. No I/O but for reading the files, no clock.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ubisip.errors import Mistake, UsageError
from ubisip.sections import Tls

SLICE = 16 * 1024
"""Octets handed to OpenSSL at once: its buffers keep the size that they once needed, for as long as the connection."""
SOON = 14
"""Days before the end of a certificate from which it is warned of: those that renew themselves do so at 30."""
DAY = 86_400
RECORD_HEAD = 5
_READ = 64 * 1024


class CertificateError(UsageError):
    """A certificate, key or CA file cannot be used; ``mistake`` says which and why, as of the configuration."""

    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(f"{path}: expected {expected}, found {found}")
        self.mistake = Mistake(0, path, expected, found)


@dataclass(frozen=True, slots=True)
class Certificates:
    """What TLS is spoken with: made anew whenever a file changed, never changed itself."""

    config: Tls
    server: ssl.SSLContext
    """For who connects to us; the host name that a client asks for (SNI) picks the certificate."""
    client: ssl.SSLContext
    """For whom we connect to; our own certificate is shown where it is asked for."""
    stamps: Mapping[str, tuple[int, int]]
    """Modification time and size of each file when it was read."""

    @classmethod
    def read(cls, config: Tls) -> Certificates:
        """The certificates that *config* names.

        :raises CertificateError: a file cannot be read or used.
        """
        stamps = stamps_of(config)
        hosts = {
            name.lower(): _server(config, f'tls.hosts."{name}"', host.certificate, host.key)
            for name, host in config.hosts.items()
        }
        server = _server(config, "tls", config.certificate, config.key)
        server.sni_callback = lambda connection, name, _: _pick(hosts, connection, name)
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _harden(client)
        _load_chain(client, "tls", config.certificate, config.key)
        if config.server_ca:
            _load_ca(client, "tls.server_ca", config.server_ca)
        else:
            client.load_default_certs()
        return cls(config, server, client, stamps)

    def changed(self) -> bool:
        """Whether a file is no longer the one that was read."""
        return stamps_of(self.config) != self.stamps


def stamps_of(config: Tls) -> dict[str, tuple[int, int]]:
    """Modification time and size of each file, as far as they are there."""
    files = [config.certificate, config.key, config.client_ca, config.server_ca]
    for host in config.hosts.values():
        files += [host.certificate, host.key]
    stamps = {}
    for file in filter(None, files):
        try:
            status = os.stat(file)
        except OSError:
            continue
        stamps[file] = (status.st_mtime_ns, status.st_size)
    return stamps


def problems_of(config: Tls, now: float) -> list[str]:
    """What is wrong with certificates that can be read: they have expired, or will soon after *now* (Unix time)."""
    pairs = {"tls": (config.certificate, config.key)}
    pairs |= {f'tls.hosts."{name}"': (host.certificate, host.key) for name, host in config.hosts.items()}
    found = {name: _problem(*files, now) for name, files in pairs.items()}
    return [f"{name}.certificate: {pairs[name][0]}: {problem}" for name, problem in found.items() if problem]


def _problem(certificate: str, key: str, now: float) -> str:
    """Why clients will not take it; it is shown to ourselves, in memory, and judged as by a client that trusts it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key or None)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is what is trusted
    client.load_verify_locations(certificate)
    one, other = TlsStream(server, server_side=True), TlsStream(client, server_side=False)
    try:
        while not (one.established and other.established):
            one.feed(other.output())
            other.feed(one.output())
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    left = ssl.cert_time_to_seconds(other.certificate["notAfter"]) - now
    return f"it expires in {left / DAY:.0f} days" if left < SOON * DAY else ""


class TlsStream:
    """One end of a TLS connection: feed it what came, send what :meth:`output` gives.

    A client's *name* is the host whose certificate it wants to see.
    """

    __slots__ = ("_head", "_incoming", "_outgoing", "_rest", "_tls", "_whole", "ended", "established")

    def __init__(self, context: ssl.SSLContext, *, server_side: bool, name: str | None = None) -> None:
        self.established = False
        """The handshake is done: :meth:`write` may be used."""
        self.ended = False
        """The peer will send no more."""
        self._head = b""
        self._whole = self._rest = 0
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=name)

    def __len__(self) -> int:
        """Octets that wait for the rest of their record: OpenSSL holds them."""
        return len(self._head) + self._whole - self._rest

    @property
    def verified(self) -> bool:
        """The peer has shown a certificate, and it holds."""
        return self.established and bool(self.certificate)

    @property
    def certificate(self) -> dict[str, Any]:
        """The peer's, as ``ssl.SSLObject.getpeercert()`` has it; empty where it did not show one."""
        return self._tls.getpeercert() or {}

    def feed(self, data: bytes) -> bytes:
        """Take cipher text as it comes; gives the plain text in it.

        :raises ssl.SSLError: the peer breaks the protocol, or its certificate does not hold; an alert is to be sent.
        """
        plain = []
        self._measure(data)
        for at in range(0, len(data), SLICE) or (0,):
            self._incoming.write(data[at : at + SLICE])
            if not self.established:
                self._shake_hands()
            while self.established and not self.ended and (some := self._read()):
                plain.append(some)
        return b"".join(plain)

    def write(self, data: bytes) -> None:
        """Encrypt *data*; renegotiation being refused, this never waits for the peer."""
        self._tls.write(data)

    def output(self) -> bytes:
        """Cipher text to be sent."""
        return self._outgoing.read()

    def close(self) -> None:
        """Say that nothing more follows (close_notify)."""
        if self.established:
            try:
                self._tls.unwrap()
            except ssl.SSLError:  # the peer has not said so yet, or not at all: we do not wait for it
                return

    def _measure(self, data: bytes) -> None:
        """Follow where records end: type, version and length, then so many octets (RFC 8446 section 5.1)."""
        at = 0
        while at < len(data):
            if not self._rest:
                some = data[at : at + RECORD_HEAD - len(self._head)]
                self._head += some
                at += len(some)
                if len(self._head) < RECORD_HEAD:
                    return
                self._whole = self._rest = int.from_bytes(self._head[3:])
            step = min(self._rest, len(data) - at)
            self._rest -= step
            at += step
            if not self._rest:
                self._head, self._whole = b"", 0

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True

    def _read(self) -> bytes:
        try:
            data = self._tls.read(_READ)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLZeroReturnError:
            data = b""
        self.ended = not data
        return data


def _pick(hosts: Mapping[str, ssl.SSLContext], connection: ssl.SSLObject, name: str | None) -> None:
    """The certificate of the host that the client asks for; the default one is there already."""
    context = hosts.get((name or "").lower())
    if context is not None:
        connection.context = context


def _server(config: Tls, key: str, certificate: str, private: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    _load_chain(context, key, certificate, private)
    if config.client_ca:
        _load_ca(context, "tls.client_ca", config.client_ca)
        required = config.client_certificates == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION


def _load_chain(context: ssl.SSLContext, key: str, certificate: str, private: str) -> None:
    _readable(f"{key}.certificate", certificate)
    if private:
        _readable(f"{key}.key", private)
    try:
        context.load_cert_chain(certificate, private or None, password=lambda: "")  # never ask the terminal for one
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(f"{key}.key", f"the key of {certificate}", private or certificate) from error
        raise _unusable(f"{key}.certificate", "a certificate and its key in PEM", certificate, error) from error


def _load_ca(context: ssl.SSLContext, key: str, file: str) -> None:
    _readable(key, file)
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        raise _unusable(key, "certificates of authorities in PEM", file, error) from error


def _readable(key: str, file: str) -> None:
    try:
        with open(file, "rb"):
            return
    except OSError as error:
        raise CertificateError(key, "a file that can be read", f"{file} ({error.strerror or error})") from error


def _unusable(key: str, expected: str, file: str, error: ssl.SSLError) -> CertificateError:
    reason = (error.reason or "it cannot be read").replace("_", " ").lower()
    return CertificateError(key, expected, f"{file} ({reason})")
