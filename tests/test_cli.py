# SPDX-License-Identifier: Apache-2.0
"""The commands: what they print, and their exit codes."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from certificates import write_certificate
from fake_worker import FakeSnapshot, FakeWorker, until, write_platform

from ubisip.admin.cli import app
from ubisip.admin.tables import duration
from ubisip.config import Config
from ubisip.keys import load_keys
from ubisip.proxy import gateway as gateway_module
from ubisip.proxy.gateway import Gateway

COMMANDS = ["check", "key", "status", "switch", "agents", "reload"]


@dataclass
class Result:
    exit_code: int
    stdout: str
    stderr: str


def ubisip(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        app([str(one) for one in arguments], prog_name="ubisip")
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "dumb")


async def beside(*arguments: str | Path) -> Result:
    """The command, while the gateway of the same process goes on."""
    return await asyncio.to_thread(ubisip, *arguments)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_platform(tmp_path, port=5060)


# Without a gateway


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_the_exit_codes(command: str) -> None:
    shown = " ".join(ubisip(command, "--help").stdout.split())
    assert f"Example: ubisip {command} " in shown
    assert "Exit codes: 0 " in shown
    assert "--json" in shown


def test_check_shows_what_stands_in_a_file_without_mistakes(path: Path) -> None:
    result = ubisip("check", path, "--node", "pa2-gw1")
    assert result.exit_code == 0
    assert f"{path}: no mistakes" in "".join(result.stdout.splitlines())
    for name in ("sbc-1", "pa2-tel1", "pa5-tel1", "pa2-gw1", "udp:127.0.9.11:5060"):
        assert name in result.stdout


def test_check_prints_every_mistake_with_its_line(path: Path) -> None:
    text = path.read_text().replace("weight = 50", "weight = -1\nwieght = 5").replace('site = "PA5"', 'site = "PA9"')
    path.write_text(text)
    result = ubisip("check", path)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    weight = text.splitlines().index("weight = -1") + 1
    assert any(line.startswith(f"{path}:{weight}: servers[1].weight: expected ") for line in lines)


def test_check_tells_programs_the_same_in_json(path: Path) -> None:
    result = ubisip("check", path, "--json")
    assert json.loads(result.stdout) == {
        "file": str(path),
        "mistakes": [], "warnings": [],
        "configuration": Config.load(path).digest,
    }
    path.write_text("[platform")
    result = ubisip("check", path, "--json")
    assert result.exit_code == 2
    (mistake,) = json.loads(result.stdout)["mistakes"]
    assert mistake["line"] == 1 and mistake["expected"] == "TOML"


def test_check_reads_the_certificates(path: Path, tmp_path: Path) -> None:
    files = write_certificate(tmp_path, "gw", "gw.example.net", days=-1)
    path.write_text(path.read_text() + '[tls]\ncertificate = "gw.pem"\nkey = "gw.key"\n')
    result = ubisip("check", path)
    warning = f"tls.certificate: {files[0]}: certificate has expired"
    assert (result.exit_code, result.stderr) == (0, f"{path}: warning: {warning}\n")
    assert json.loads(ubisip("check", path, "--json").stdout)["warnings"] == [warning]
    Path(files[1]).write_bytes(Path(write_certificate(tmp_path, "other", "gw.example.net")[1]).read_bytes())
    result = ubisip("check", path)
    assert (result.exit_code, result.stderr) == (
        2, f"{path}: tls.key: expected the key of {files[0]}, found {files[1]}\n",
    )  # fmt: skip
    Path(files[0]).unlink()
    (mistake,) = json.loads(ubisip("check", path, "--json").stdout)["mistakes"]
    assert (mistake["path"], mistake["expected"]) == ("tls.certificate", "a file that can be read")


def test_check_tells_that_the_key_ring_is_not_there_yet(path: Path, tmp_path: Path) -> None:
    path.write_text(path.read_text().replace("[platform]", '[platform]\nkey_file = "cluster.key"'))
    ring = tmp_path / "cluster.key"
    result = ubisip("check", path)
    told = f"{path}: warning: platform.key_file: {ring} does not exist here; `ubisip key {ring}` makes one\n"
    assert (result.exit_code, result.stderr) == (0, told)
    ubisip("key", ring)
    result = ubisip("check", path)
    assert (result.exit_code, result.stderr) == (0, "")


def test_check_of_an_unknown_gateway_or_file_fails(path: Path, tmp_path: Path) -> None:
    result = ubisip("check", path, "--node", "pa9-gw1")
    assert result.exit_code == 2 and "pa2-gw1" in result.stderr
    result = ubisip("check", tmp_path / "absent.toml")
    assert result.exit_code == 2 and "No such file" in result.stderr


def test_key_makes_a_ring_that_only_its_owner_reads_and_rolls_it(tmp_path: Path) -> None:
    ring = tmp_path / "cluster.key"
    assert ubisip("key", ring).exit_code == 0
    assert stat.S_IMODE(ring.stat().st_mode) == 0o600
    (first,) = load_keys(ring)
    result = ubisip("key", ring, "--add", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"file": str(ring), "keys": 2})
    assert load_keys(ring)[1] == first


def test_key_does_not_overwrite_a_ring_nor_add_to_none(tmp_path: Path) -> None:
    ring = tmp_path / "cluster.key"
    result = ubisip("key", ring, "--add")
    told = f"{ring}: No such file or directory; `ubisip key {ring}` makes one\n"
    assert (result.exit_code, result.stderr) == (1, told)
    nowhere = tmp_path / "nowhere" / "cluster.key"
    result = ubisip("key", nowhere)
    assert (result.exit_code, result.stderr) == (1, f"{nowhere}: No such file or directory\n")
    ubisip("key", ring)
    before = ring.read_bytes()
    result = ubisip("key", ring)
    assert result.exit_code == 1 and "exists" in result.stderr
    assert ring.read_bytes() == before


def test_a_gateway_that_does_not_answer_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for command in (["status"], ["switch", "pa2-tel1", "drain"], ["reload"]):
        result = ubisip(*command, "--admin", url)
        assert (result.exit_code, result.stderr) == (1, f"cannot ask {url}: Connection refused\n")
    result = ubisip("status", "--admin", url, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"errors": [f"cannot ask {url}: Connection refused"]})


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "http://", "ftp://127.0.0.1", "file:///etc/passwd", "http://[::1"])
def test_what_is_no_address_is_a_mistake(url: str) -> None:
    result = ubisip("status", "--admin", url)
    assert (result.exit_code, result.stderr) == (2, f"expected an address such as http://127.0.0.1:8080, found {url}\n")


def test_a_file_with_several_gateways_needs_a_node(path: Path) -> None:
    second = '[[gateways]]\nname = "pa2-gw2"\nsite = "PA2"\nlisten = ["udp:127.0.9.12:5060"]\n'
    path.write_text(
        path.read_text().replace("[platform]", '[platform]\nkey_file = "k"').replace("[health", second + "[health")
    )
    result = ubisip("status", "--config", path)
    assert result.exit_code == 2 and "pa2-gw1, pa2-gw2" in result.stderr
    result = ubisip("status", "--config", path, "--node", "pa2-gw2")
    assert result.exit_code == 2 and "pa2-gw2 has no `admin` address" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["switch", "pa2-tel1", "off"], ["check"], ["status", "--nonsense"]]
)
def test_a_wrong_command_line_is_code_2(arguments: list[str]) -> None:
    assert ubisip(*arguments).exit_code == 2


def test_the_installed_command_is_the_same() -> None:
    code = "import sys; from ubisip.admin.cli import main; sys.argv = ['x', '--version']; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("ubisip 0.")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (7.9, "7 s"), (60, "1 min"), (725, "12 min 5 s"), (3_600, "1 h"), (273_700, "3 d 4 h")],
)
def test_durations_have_their_two_largest_units(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


# With a gateway


@pytest.fixture
def fake_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("ubisip.proxy.gateway.Worker", FakeWorker)
    monkeypatch.setattr("ubisip.proxy.control.Snapshot", FakeSnapshot)
    monkeypatch.setattr(gateway_module, "SETTLE", 0.0)
    yield


@pytest.fixture
async def gateway(tmp_path: Path, fake_core: None) -> AsyncIterator[Gateway]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.9.11", 0))
        listen = free.getsockname()[1]
    (tmp_path / "admin.token").write_text("s3cret\n")
    lines = f'admin = "127.0.0.1:{port}"\nadmin_token_file = "admin.token"'
    path = write_platform(tmp_path, port=listen, gateway=lines)
    async with Gateway(Config.load(path), node="pa2-gw1") as it:
        await until(lambda: all(row["state"] == "up" for row in it.status()["destinations"]))
        yield it


async def test_status_shows_destinations_with_health_and_switch(gateway: Gateway) -> None:
    gateway.switch("pa5-tel1", "drain")
    result = await beside("status", "--config", gateway.config.path)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("pa2-gw1 at PA2 of test (preproduction), ready, up ")
    tel = next(line for line in lines if "pa5-tel1" in line)
    assert tel.split() == ["pa5-tel1", "up,", "drain", "50", "0", "0", "0", "0", "0"]
    assert [line.strip() for line in lines if line.strip().startswith("PA")] == [
        "PA2 carriers montsouris",
        "PA2 servers",
        "PA5 servers",
    ]


async def test_status_tells_what_it_does_not_believe(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    status = {**gateway.status(), "doubt": "most targets fail", "panic": ["server"]}
    monkeypatch.setattr(gateway, "status", lambda: status)
    lines = (await beside("status", "--config", gateway.config.path)).stdout.splitlines()
    assert lines[1] == "it distrusts what it sees (most targets fail): meanwhile it takes nobody else for down"
    assert lines[2] == "no server looks usable: all that are switched to ready are tried"


async def test_status_as_json_is_what_http_answers(gateway: Gateway) -> None:
    result = await beside("status", "--config", gateway.config.path, "--json")
    shown: dict[str, Any] = json.loads(result.stdout)
    assert shown["node"] == "pa2-gw1" and len(shown["destinations"]) == 3


async def test_switch_changes_it_and_tells_the_result(gateway: Gateway) -> None:
    result = await beside("switch", "pa2-tel1", "maintenance", "--config", gateway.config.path)
    assert (result.exit_code, result.stdout) == (
        0,
        "pa2-tel1 is set to maintenance (health: down, calls now: 0)\n",
    )
    result = await beside("switch", "pa9-tel1", "drain", "--config", gateway.config.path)
    assert result.exit_code == 2 and "sbc-1, pa2-tel1, pa5-tel1" in result.stderr


async def test_reload_tells_the_digest_or_every_mistake(gateway: Gateway) -> None:
    path = Path(gateway.config.path)
    result = await beside("reload", "--config", path)
    assert (result.exit_code, result.stdout.split()[0]) == (0, "reloaded,")
    admin = f"http://127.0.0.1:{gateway.config.gateways[0].admin.port}"  # type: ignore[union-attr]
    good = path.read_text()
    path.write_text(good.replace("weight = 50", "weight = -1").replace('site = "PA5"', 'site = "PA9"'))
    options = ["--admin", admin, "--token-file", path.with_name("admin.token")]
    result = await beside("reload", *options)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 2
    path.write_text(good)


async def test_without_its_token_the_gateway_says_no(gateway: Gateway, tmp_path: Path) -> None:
    admin = f"http://127.0.0.1:{gateway.config.gateways[0].admin.port}"  # type: ignore[union-attr]
    result = await beside("status", "--admin", admin)
    assert (result.exit_code, result.stderr) == (1, "a bearer token is needed\n")
    result = await beside("status", "--admin", admin, "--token-file", tmp_path / "absent")
    assert result.exit_code == 2 and "No such file" in result.stderr
