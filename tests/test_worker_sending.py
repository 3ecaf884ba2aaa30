# SPDX-License-Identifier: Apache-2.0
"""Responses that leave together: real datagrams of the real worker, cut apart by the kernel or by the worker."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from fake_worker import write_platform
from plain_sip import Packet

from ubisip.config import Config
from ubisip.core.snapshot import Slots, Snapshot
from ubisip.core.worker import Worker

CARRIER, GATEWAY = ("127.0.9.1", 5060), "127.0.9.11"
SO_NO_CHECK = 11
"""Without checksums the kernel does not cut messages apart: it refuses them (EINVAL)."""


class Asker:
    """A carrier that asks a gateway many things at once: all are in its socket before it looks there."""

    def __init__(self, folder: Path, gateway: socket.socket, carrier: socket.socket) -> None:
        self._at, self._carrier = gateway.getsockname(), carrier
        config = Config.load(write_platform(folder, port=self._at[1]))
        self._worker = Worker([gateway], Snapshot(config, "pa2-gw1", Slots()), [bytes(16)])

    def answers(self, asked: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Send an OPTIONS for each Call-ID and CSeq number; those of the answers, as they came."""
        for number, (call_id, cseq) in enumerate(asked):
            self._carrier.sendto(self._options(number, call_id, cseq), self._at)
        self._worker.start()
        try:
            packets = [Packet(self._carrier.recv(65536)) for _ in asked]
        finally:
            self._worker.stop()
        assert all(packet.status == 200 for packet in packets)
        return [(packet.call_id, (packet.get("CSeq") or "").split()[0]) for packet in packets]

    def joined(self) -> int:
        """Answers that left together with an earlier one."""
        return self._worker.statistics()["worker"]["together"]

    def _options(self, number: int, call_id: str, cseq: str) -> bytes:
        host, port = self._at
        return (
            f"OPTIONS sip:{host}:{port} SIP/2.0\r\nVia: SIP/2.0/UDP {CARRIER[0]};branch=z9hG4bK{number:04}\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:sbc@{CARRIER[0]}>;tag=1\r\nTo: <sip:{host}>\r\nCall-ID: {call_id}\r\n"
            f"CSeq: {cseq} OPTIONS\r\nContent-Length: 0\r\n\r\n"
        ).encode()


@pytest.fixture
def gateway() -> Iterator[socket.socket]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as one:
        one.bind((GATEWAY, 0))
        yield one


@pytest.fixture
def asker(tmp_path: Path, gateway: socket.socket) -> Iterator[Asker]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as carrier:
        carrier.bind(CARRIER)
        carrier.settimeout(10)
        yield Asker(tmp_path, gateway, carrier)


def test_responses_of_one_size_leave_together_and_arrive_one_by_one(asker: Asker) -> None:
    asked = [(f"call{number:02}", "1") for number in range(40)]
    assert sorted(asker.answers(asked)) == asked
    assert asker.joined() >= 30


def test_a_response_overtakes_none_of_its_own_call(asker: Asker) -> None:
    # The second answer of "late" is longer than all the others, the third is as long as they: it may not join them.
    asked = [("call", "1"), ("late", "1"), ("late", "22"), ("late", "3"), *[(f"cal{n}", "1") for n in range(9)]]
    answers = asker.answers(asked)
    assert sorted(answers) == sorted(asked)
    assert [cseq for call_id, cseq in answers if call_id == "late"] == ["1", "22", "3"]
    assert asker.joined() > 0


def test_a_kernel_that_cuts_nothing_apart_is_given_datagrams(asker: Asker, gateway: socket.socket) -> None:
    gateway.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    asked = [(f"call{number:02}", "1") for number in range(40)]
    assert sorted(asker.answers(asked)) == asked
    assert asker.joined() == 0
