# SPDX-License-Identifier: Apache-2.0
"""Whole registrations through the engine in virtual time: REGISTER, 401, REGISTER with credentials, 200; not mirrored.

python -m bench.registrations 500           as many, once: for valgrind (bench.callgrind register)
python -m bench.registrations memory 100000 octets of memory a binding, its account included
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from pathlib import Path

from bench.candidates import Place, platform_file
from ubisip.config import Config
from ubisip.core.digest import ha1
from ubisip.core.engine import Engine
from ubisip.core.snapshot import Slots, Snapshot

DOMAIN = "ubisip.test"
LIMIT = 200_000
"""Bindings that the engine may hold."""
NOW = 1000.0
SECTION = f"""
[agents]
realm = "{DOMAIN}"
domains = ["{DOMAIN}"]
credentials = "file:users.csv"
mirror = "off"
[limits]
bindings = {LIMIT}
"""
BATCH = 100


def engine() -> Engine:
    """A registrar that knows nobody yet."""
    with tempfile.TemporaryDirectory() as directory:
        config = Config.load(platform_file(Place(Path(directory)), SECTION))
    return Engine(Snapshot(config, "bench", Slots(), credentials_complete=True, wall=1.79e9), [bytes(16)])


def source(number: int) -> tuple[str, int]:
    """Where a phone stands."""
    return (f"10.{number >> 14}.{number >> 7 & 127}.{1 + (number & 127)}", 5060)


def register(number: int, cseq: int, more: str = "") -> bytes:
    """A REGISTER of phone *number*, as SIPp and many phones write it."""
    where = source(number)[0]
    return (
        f"REGISTER sip:{DOMAIN} SIP/2.0\r\nVia: SIP/2.0/UDP {where}:5060;branch=z9hG4bK-{number}-{cseq};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:agent{number}@{DOMAIN}>;tag=t{number}\r\nTo: <sip:agent{number}@{DOMAIN}>\r\n"
        f"Call-ID: {number}-c0ffee@{where}\r\nCSeq: {cseq} REGISTER\r\nContact: <sip:agent{number}@{where}:5060>\r\n"
        f"{more}Expires: 3600\r\nUser-Agent: bench\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def credentials(number: int, challenge: bytes) -> str:
    """The Authorization line for the MD5 challenge, which hardware phones take."""
    found = re.search(rb'nonce="(\w+)"', challenge)
    assert found is not None, challenge
    user, nonce, uri = f"agent{number}", found[1].decode(), f"sip:{DOMAIN}"
    inner = hashlib.md5(f"REGISTER:{uri}".encode()).hexdigest()
    key = ha1("MD5", user, DOMAIN, "secret").hex()
    response = hashlib.md5(f"{key}:{nonce}:00000001:c0ffee:auth:{inner}".encode()).hexdigest()
    return (
        f'Authorization: Digest username="{user}", realm="{DOMAIN}", nonce="{nonce}", uri="{uri}", '
        f'response="{response}", algorithm=MD5, qop=auth, nc=00000001, cnonce="c0ffee"\r\n'
    )


def know(registrar: Engine, numbers: range) -> None:
    """Tell the engine the digests of these agents."""
    for number in numbers:
        md5 = ha1("MD5", f"agent{number}", DOMAIN, "secret")
        registrar.credential(f"agent{number}", DOMAIN, md5, b"", b"", True, float("inf"), NOW)


def run(registrar: Engine, numbers: range) -> None:
    """Register these agents, BATCH by BATCH.

    :raises AssertionError: one was refused.
    """
    for first in range(numbers.start, numbers.stop, BATCH):
        batch = range(first, min(first + BATCH, numbers.stop))
        for number in batch:
            registrar.receive(register(number, 1), source(number), 0, NOW)
        answers = [(number, sent.data) for number, sent in zip(batch, registrar.outbox(), strict=True)]
        for number, data in answers:
            registrar.receive(register(number, 2, credentials(number, data)), source(number), 0, NOW)
        assert all(sent.data.startswith(b"SIP/2.0 200") for sent in registrar.outbox())
        registrar.take_journal()


def resident() -> int:
    """Octets of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def memory(count: int) -> float:
    """Octets a binding; what the engine holds without any is left out."""
    registrar = engine()
    know(registrar, range(100))
    run(registrar, range(100))
    before = resident()
    know(registrar, range(100, count))
    run(registrar, range(100, count))
    held = registrar.statistics()["bindings"]
    assert held == count, held
    return (resident() - before) / (count - 100)


def main() -> int:
    if sys.argv[1] == "memory":
        print(f"{memory(int(sys.argv[2])):.0f} octets a binding")
        return 0
    registrar, numbers = engine(), range(int(sys.argv[1]))
    know(registrar, numbers)
    run(registrar, numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
