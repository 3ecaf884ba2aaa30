# SPDX-License-Identifier: Apache-2.0
"""``python -m ubisip.proxy`` as a process: readiness, signals, systemd, exit codes, logs."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession
from fake_worker import write_platform
from sip_peer import SipPeer

NODE = "pa2-gw1"


def free_port(host: str, kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Service:
    """One gateway process, its words and its admin side."""

    def __init__(self, path: Path, port: int, admin: int) -> None:
        self.path, self.at, self.url = path, ("127.0.9.11", port), f"http://127.0.0.1:{admin}"
        self.spoken: list[str] = []
        self.process: asyncio.subprocess.Process | None = None
        self._news = asyncio.Condition()
        self._reader: asyncio.Task[None] | None = None

    async def start(self, *options: str, notify: str = "") -> None:
        """Start it and wait for the readiness line."""
        self.process = await launch("--config", str(self.path), "--node", NODE, *options, notify=notify)
        self._reader = asyncio.ensure_future(self._listen(self.process))
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            line = await self.process.stdout.readline()
        assert line.decode() == f"ubisip {NODE} ready on udp:{self.at[0]}:{self.at[1]}\n"

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            async with self._news:
                self.spoken.append(line.decode())
                self._news.notify_all()

    async def says(self, words: str) -> str:
        """The first line of the log with *words*."""

        def found() -> str:
            return next((line for line in self.spoken if words in line), "")

        async with asyncio.timeout(10), self._news:
            return await self._news.wait_for(found)

    async def get(self, path: str) -> int:
        async with ClientSession() as session, session.get(self.url + path) as response:
            return response.status

    async def healthy(self) -> None:
        """Wait until it has seen every destination answer."""
        for name in ("sbc-1", "pa2-tel1", "pa5-tel1"):
            await self.says(f"{name} ({'PA5' if name.startswith('pa5') else 'PA2'}) is up")

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def end(self) -> int:
        """Wait for its end; returns the exit code, after which all it said is in ``spoken``."""
        assert self.process is not None and self._reader is not None
        async with asyncio.timeout(40):
            code = await self.process.wait()
            await self._reader
        return code

    async def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.send(signal.SIGKILL)
            await self.end()


async def launch(*arguments: str, notify: str = "") -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ubisip.proxy", *arguments),
        env={"NOTIFY_SOCKET": notify} if notify else {},
        cwd=Path(__file__).resolve().parents[1],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ends(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process that ends by itself."""
    process = await launch(*arguments)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def service_in(folder: Path) -> AsyncIterator[Service]:
    port, admin = free_port("127.0.9.11", socket.SOCK_DGRAM), free_port("127.0.0.1", socket.SOCK_STREAM)
    service = Service(write_platform(folder, port=port, gateway=f'admin = "127.0.0.1:{admin}"'), port, admin)
    try:
        yield service
    finally:
        await service.kill()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with service_in(tmp_path) as it:
        yield it


@pytest.fixture
async def peers() -> AsyncIterator[tuple[SipPeer, SipPeer, SipPeer]]:
    """The carrier, the server of PA2, the server of PA5."""
    async with AsyncExitStack() as opened:
        addresses = [("127.0.9.1", 5060), ("127.0.9.21", 5071), ("127.0.9.51", 5071)]
        carrier, near, far = [await opened.enter_async_context(SipPeer(address)) for address in addresses]
        yield carrier, near, far


# Start and stop


async def test_it_is_ready_answers_http_and_stops_when_asked(service: Service) -> None:
    await service.start()
    assert [await service.get(path) for path in ("/livez", "/readyz", "/metrics", "/api/v1/platform")] == [200] * 4
    service.send(signal.SIGTERM)
    assert await service.end() == 0


async def test_systemd_hears_ready_reloading_and_stopping(service: Service, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        heard: Callable[[], bytes] = lambda: systemd.recv(200)  # noqa: E731
        await service.start(notify=str(tmp_path / "notify"))
        assert heard() == b"READY=1"
        service.send(signal.SIGHUP)
        assert (await asyncio.to_thread(heard)).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert await asyncio.to_thread(heard) == b"READY=1"
        service.send(signal.SIGTERM)
        assert await asyncio.to_thread(heard) == b"STOPPING=1"
        assert await service.end() == 0


async def test_a_configuration_with_mistakes_is_code_2_and_starts_nothing(service: Service) -> None:
    good = service.path.read_text()
    service.path.write_text(good.replace("weight = 50", "weight = -1").replace('site = "PA5"', 'site = "PA9"'))
    code, out, err = await ends("--config", str(service.path), "--node", NODE)
    assert (code, out, len(err.splitlines())) == (2, "", 2)
    assert all(line.startswith(f"{service.path}:") for line in err.splitlines())
    assert not (service.path.parent / "state").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--config", "x.toml"],
        ["--node", "x"],
        ["--demo", "--config", "x.toml", "--node", "x"],
        ["--demo", "--rate", "0"],
    ],
)
async def test_a_wrong_command_line_is_code_2(arguments: list[str]) -> None:
    code, out, err = await ends(*arguments)
    assert (code, out) == (2, "") and "error: " in err


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "fifty"])
async def test_a_rate_that_cannot_be_is_named(text: str) -> None:
    code, out, err = await ends("--demo", f"--rate={text}")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith(f"argument --rate: expected a number above 0, found '{text}'")


async def test_an_unknown_node_is_code_2(service: Service) -> None:
    code, _, err = await ends("--config", str(service.path), "--node", "pa9-gw1")
    assert code == 2 and err.startswith("no gateway is named 'pa9-gw1'") and len(err.splitlines()) == 1


async def test_a_taken_port_is_one_clear_line_and_code_1(service: Service) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(service.at)
        code, out, err = await ends("--config", str(service.path), "--node", NODE)
    assert (code, out, err) == (1, "", f"cannot listen on udp:127.0.9.11:{service.at[1]}: Address already in use\n")


async def test_a_taken_admin_port_is_one_clear_line_and_code_1(service: Service) -> None:
    port = int(service.url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        code, out, err = await ends("--config", str(service.path), "--node", NODE)
    assert (code, out, err) == (1, "", f"cannot serve HTTP on tcp:127.0.0.1:{port}: Address already in use\n")


# Calls


async def test_calls_in_set_up_are_finished_and_new_ones_refused_when_it_stops(
    service: Service, peers: tuple[SipPeer, SipPeer, SipPeer]
) -> None:
    carrier, server, _ = peers
    await service.start()
    await service.healthy()
    call_id = carrier.invite(service.at)
    invite = await server.request("INVITE")
    server.reply(invite, 180)
    await carrier.status(180)
    service.send(signal.SIGTERM)
    await service.says("no new calls from now on")
    assert (await service.get("/readyz"), await service.get("/livez")) == (503, 200)
    refused = carrier.invite(service.at)
    shed = await carrier.status(503)
    assert shed.call_id == refused and int(shed.get("retry-after") or "0") > 0
    server.reply(invite, 200)
    answer = await carrier.status(200)
    assert answer.call_id == call_id
    carrier.in_dialog("ACK", answer, service.at)
    await server.request("ACK")
    assert await service.end() == 0


async def test_a_second_signal_ends_the_waiting(service: Service, peers: tuple[SipPeer, SipPeer, SipPeer]) -> None:
    carrier, server, _ = peers
    await service.start()
    await service.healthy()
    carrier.invite(service.at)
    server.reply(await server.request("INVITE"), 180)
    await carrier.status(180)
    service.send(signal.SIGTERM)
    await service.says("no new calls from now on")
    service.send(signal.SIGTERM)
    assert await service.end() == 0


async def test_a_call_goes_on_through_the_gateway_that_was_killed_and_started_again(
    service: Service, peers: tuple[SipPeer, SipPeer, SipPeer]
) -> None:
    carrier, server, _ = peers
    await service.start()
    await service.healthy()
    call_id = carrier.invite(service.at)
    server.reply(await server.request("INVITE"), 200)
    answer = await carrier.status(200)
    carrier.in_dialog("ACK", answer, service.at)
    await server.request("ACK")
    await service.kill()
    await service.start()
    carrier.in_dialog("BYE", answer, service.at, cseq=2)
    bye = await server.request("BYE")
    server.reply(bye, 200)
    ended = await carrier.hears(lambda it: it.status == 200 and it.method == "BYE")
    assert bye.call_id == ended.call_id == call_id
    service.send(signal.SIGTERM)
    assert await service.end() == 0


async def test_a_call_makes_no_line_at_the_default_level(
    service: Service, peers: tuple[SipPeer, SipPeer, SipPeer]
) -> None:
    carrier, server, _ = peers
    await service.start()
    await service.healthy()
    call_id = carrier.invite(service.at)
    server.reply(await server.request("INVITE"), 486)
    await carrier.status(486)
    service.send(signal.SIGTERM)
    assert await service.end() == 0
    assert not [line for line in service.spoken if call_id in line]
    assert len(service.spoken) == 5  # three destinations up, the signal, drained


# Reload


async def test_sighup_takes_the_new_file_or_tells_every_mistake(service: Service) -> None:
    await service.start("--log-format", "json")
    good = service.path.read_text()
    service.path.write_text(good.replace("weight = 50", "weight = 70"))
    service.send(signal.SIGHUP)
    entry = json.loads(await service.says("reloaded by SIGHUP"))
    assert (entry["level"], entry["node"], entry["logger"]) == ("info", NODE, "ubisip.proxy.gateway")
    service.path.write_text(good.replace("weight = 50", "weight = -1").replace('site = "PA5"', 'site = "PA9"'))
    service.send(signal.SIGHUP)
    await service.says("servers[1].site")
    await service.says("servers[1].weight")
    assert await service.get("/readyz") == 200
    async with ClientSession() as session, session.get(service.url + "/api/v1/platform") as response:
        rows = (await response.json())["destinations"]
    assert [row["weight"] for row in rows] == [100, 100, 70]
    service.send(signal.SIGTERM)
    assert await service.end() == 0
    assert all(json.loads(line)["level"] for line in service.spoken)
