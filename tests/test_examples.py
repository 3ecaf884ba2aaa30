# SPDX-License-Identifier: Apache-2.0
"""Each example runs as its text says, with calls."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_worker import write_platform
from sip_peer import SipPeer

from ubisip import Config

ROOT = Path(__file__).resolve().parents[1]
CARRIER = ("127.0.9.1", 5060)
NEAR = ("127.0.9.21", 5071)
FAR = ("127.0.9.51", 5071)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.9.11", 0))
        port = free.getsockname()[1]
    return write_platform(tmp_path, port=port)


def gateway_at(path: Path) -> tuple[str, int]:
    listener = Config.load(path).gateways[0].listen[0]
    return listener.host, listener.port


class Running:
    """An example as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def says(self, words: str) -> str:
        """The next line with *words*."""
        while words not in (line := await self.line()):
            assert line, f"it ended without saying {words!r}"
        return line

    async def ends(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def example(name: str, *arguments: str | Path) -> AsyncIterator[Running]:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        yield Running(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_embed_tells_what_becomes_of_calls(path: Path) -> None:
    async with (
        SipPeer(CARRIER) as carrier,
        SipPeer(NEAR) as server,
        SipPeer(FAR),
        example("embed.py", path, "pa2-gw1") as it,
    ):
        host, port = gateway_at(path)
        assert await it.line() == f"pa2-gw1 carries calls on udp:{host}:{port}"
        await it.says("pa2-tel1 is up (sip.200)")
        call_id = carrier.invite((host, port))
        server.reply(await server.request("INVITE"), 200)
        carrier.in_dialog("ACK", await carrier.status(200), (host, port))
        assert (await it.says("answered")).startswith(f"{call_id} answered by pa2-tel1 after ")
        call_id = carrier.invite((host, port))
        server.reply(await server.request("INVITE"), 486)
        assert await it.says("failed") == f"{call_id} failed with 486"
        it.process.terminate()
        await it.says("drained and stopped")
        assert await it.ends() == 0


async def test_vip_policy_sends_who_is_in_the_table_to_the_server_beside_the_name(path: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "vip.db")) as database, database:
        database.execute("create table vip (caller text primary key, server text not null)")
        database.execute("insert into vip values ('0699999999', 'pa5-tel1')")
    async with (
        SipPeer(CARRIER) as carrier,
        SipPeer(NEAR) as near,
        SipPeer(FAR) as far,
        example("vip_policy.py", path, "pa2-gw1", tmp_path / "vip.db") as it,
    ):
        await it.says("carries calls")
        carrier.invite(gateway_at(path), caller="0699999999")
        vip = await far.request("INVITE")
        far.reply(vip, 486)
        carrier.invite(gateway_at(path), caller="0611111111")
        other = await near.request("INVITE")
        near.reply(other, 486)
        assert (vip.from_user, other.from_user) == ("0699999999", "0611111111")
        await carrier.status(486)
        it.process.terminate()
        assert await it.ends() == 0


@pytest.mark.skipif(find_spec("aiosip") is None, reason="aiosip 0.2.0 is not installed")
async def test_an_aiosip_application_calls_through_the_gateway_beside_it(path: Path) -> None:
    async with (
        SipPeer(CARRIER) as carrier,
        example("beside_aiosip.py", path, "pa2-gw1", f"{NEAR[0]}:{NEAR[1]}", "0123456789") as it,
    ):
        invite = await carrier.request("INVITE")
        assert invite.uri_user == "0123456789"
        carrier.reply(invite, 180)
        carrier.reply(invite, 200)
        await carrier.request("ACK")
        bye = await carrier.request("BYE")
        assert (bye.call_id, bye.cseq) == (invite.call_id, 2)
        carrier.reply(bye, 200)
        assert await it.line() == "aiosip: 0123456789 answered 200"
        assert await it.line() == "aiosip: hung up, 200"
        told = [await it.line() for _ in range(4)]
        assert told == [f"gateway: {event} sbc-1" for event in ("SetUp", "Ringing", "Answered", "Ended")]
        assert await it.ends() == 0


@pytest.mark.skipif(find_spec("aiosip") is None, reason="aiosip 0.2.0 is not installed")
async def test_a_call_of_the_aiosip_application_is_refused(path: Path) -> None:
    async with (
        SipPeer(CARRIER) as carrier,
        example("beside_aiosip.py", path, "pa2-gw1", f"{NEAR[0]}:{NEAR[1]}", "0123456789") as it,
    ):
        carrier.reply(await carrier.request("INVITE"), 486)
        assert await it.line() == "aiosip: 0123456789 answered 486"
        await it.says("gateway: Failed")
        assert await it.ends() == 0


@pytest.mark.parametrize("name", ["embed.py", "vip_policy.py", "beside_aiosip.py"])
async def test_without_arguments_an_example_shows_how_it_is_used(name: str) -> None:
    command = [sys.executable, str(ROOT / "examples" / name)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, told = await process.communicate()
    assert process.returncode == 1
    assert f"python examples/{name} examples/platform.toml pa2-gw1".encode() in told and b"Traceback" not in told
