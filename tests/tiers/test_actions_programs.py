# SPDX-License-Identifier: Apache-2.0
"""The actions ``exec`` and ``http-request``: what programs of others are told, and what their answers mean."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest
from processes import until
from tiers.fake_services import Listener, Service
from tiers.situations import Promote, Refuse, carried_out, member, outcome, situation

from ubisip.failover.action import Proof, Refusal
from ubisip.failover.actions.exec import ExecAction
from ubisip.failover.actions.http_request import HttpRequestAction
from ubisip.failover.plan import Progress, StepState
from ubisip.health.machine import State

DEAD = situation(
    member("db1", "192.0.2.1:3306", State.DOWN), member("db2", "192.0.2.2:3306"), kind="mariadb", verdict="dead-primary"
)


def script(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_program_is_told_all_of_the_step_but_no_password(tmp_path: Path) -> None:
    command = script(tmp_path, "hook", f"env > {tmp_path}/env; cat > {tmp_path}/given")
    actions = {"promote": Promote("db2"), "exec": ExecAction({"command": [command, "an argument"]})}
    journal = await carried_out(DEAD, actions)
    assert journal.progress is Progress.DONE, journal.reason
    environment = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert environment["UBISIP_TIER"] == "tier"
    assert environment["UBISIP_VERDICT"] == "dead-primary"
    assert environment["UBISIP_PRIMARY"] == "db2"
    assert environment["UBISIP_ACCUSED"] == "db1"
    assert environment["UBISIP_EPOCH"] == "7"
    assert environment["UBISIP_KEY"] == "plan-1/1"
    given = json.loads((tmp_path / "given").read_text())
    assert given["members"][1] == {
        "name": "db2",
        "site": "PA5",
        "address": "192.0.2.2:3306",
        "state": "up",
        "reason": "",
    }
    assert "password" not in (tmp_path / "given").read_text().lower()


async def test_secrets_of_our_own_environment_are_not_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_SERVICE", "1234")
    command = script(tmp_path, "hook", f"env > {tmp_path}/env")
    await carried_out(DEAD, {"promote": Promote("db2"), "exec": ExecAction({"command": [command]})})
    assert "A_SECRET_OF_THE_SERVICE" not in (tmp_path / "env").read_text()


async def test_a_check_that_fails_is_a_veto(tmp_path: Path) -> None:
    veto = script(tmp_path, "check", "echo 'there is a backup running' >&2; exit 1")
    command = script(tmp_path, "hook", f"touch {tmp_path}/done")
    journal = await carried_out(DEAD, {"exec": ExecAction({"command": [command], "check": [veto]})})
    assert journal.steps[0].state is StepState.REFUSED
    assert "there is a backup running" in journal.steps[0].reason
    assert not (tmp_path / "done").exists()


async def test_one_that_says_try_again_is_tried_again(tmp_path: Path) -> None:
    text = f"test -e {tmp_path}/twice || {{ touch {tmp_path}/twice; exit 75; }}"
    journal = await carried_out(DEAD, {"exec": ExecAction({"command": [script(tmp_path, "hook", text)]})})
    assert journal.progress is Progress.DONE


async def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    command = script(tmp_path, "hook", f"sleep 60 & echo $! > {tmp_path}/child; wait")
    began = time.monotonic()
    journal = await carried_out(DEAD, {"exec": ExecAction({"command": [command], "timeout": 1.0})})
    assert time.monotonic() - began < 20
    assert journal.steps[0].state is not StepState.DONE
    child = int((tmp_path / "child").read_text())
    await until(lambda: not _runs(child), "the child to be gone")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_what_it_prints_as_json_is_told_to_the_steps_after_it(tmp_path: Path) -> None:
    first = script(tmp_path, "first", """echo '{"primary": "db2"}'""")
    second = script(tmp_path, "second", f"echo $UBISIP_PRIMARY > {tmp_path}/primary")
    await carried_out(DEAD, {"first": ExecAction({"command": [first]}), "second": ExecAction({"command": [second]})})
    assert (tmp_path / "primary").read_text() == "db2\n"


async def test_undo_is_called_when_the_plan_fails(tmp_path: Path) -> None:
    act = ExecAction({"command": ["true"], "undo": [script(tmp_path, "undo", f"echo $UBISIP_KEY > {tmp_path}/undone")]})
    journal = await carried_out(DEAD, {"exec": act, "refuse": Refuse("")})
    assert outcome(journal)[0][1] is StepState.UNDONE
    assert (tmp_path / "undone").read_text() == "plan-1/0\n"


async def test_what_was_done_and_has_no_undo_leaves_a_plan_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ubisip.failover.runner.PAUSE", 0.01)
    journal = await carried_out(DEAD, {"exec": ExecAction({"command": ["true"]}), "refuse": Refuse("")})
    assert journal.progress is Progress.INCOMPLETE
    assert "there is no command `undo`" in journal.reason


async def test_verify_is_asked_until_it_says_yes(tmp_path: Path) -> None:
    text = f"echo x >> {tmp_path}/asked; test $(wc -l < {tmp_path}/asked) -ge 3"
    act = ExecAction({"command": ["true"], "verify": [script(tmp_path, "verify", text)]})
    assert (await carried_out(DEAD, {"exec": act})).progress is Progress.DONE
    assert (tmp_path / "asked").read_text().count("x") == 3


async def test_a_program_that_is_not_there_is_named() -> None:
    journal = await carried_out(DEAD, {"exec": ExecAction({"command": ["/nowhere/hook"]})})
    assert "/nowhere/hook cannot be started" in journal.reason


def test_the_class_of_its_proof_is_as_configured() -> None:
    for name in ("R", "G", "S"):
        found = ExecAction({"command": ["true"], "proof": name}).plan(DEAD, ())
        assert not isinstance(found, Refusal) and found[0].proof is Proof(name)


async def test_a_request_tells_the_step_is_signed_and_keeps_its_key(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("shared\n")
    listener = Listener(statuses=[503, 429], text='{"ticket": 12}')
    async with Service(listener) as service:
        act = HttpRequestAction({"url": f"{service.url}/switch", "secret_file": str(secret), "headers": {"X-A": "b"}})
        journal = await carried_out(DEAD, {"promote": Promote("db2"), "request": act})
    assert journal.progress is Progress.DONE
    assert journal.steps[1].result == {"status": 200, "ticket": 12}
    assert len(listener.heard) == 3
    assert {one.headers["Idempotency-Key"] for one in listener.heard} == {"plan-1/1"}
    last = listener.heard[-1]
    assert (last.method, last.path, last.headers["X-A"]) == ("POST", "/switch", "b")
    assert json.loads(last.body)["primary"] == "db2"
    signed = f"{last.headers['X-Ubisip-Timestamp']}.".encode() + last.body
    wanted = hmac.new(b"shared", signed, hashlib.sha256).hexdigest()
    assert last.headers["X-Ubisip-Signature"] == f"sha256={wanted}"


async def test_a_request_that_is_refused_is_not_tried_again() -> None:
    listener = Listener(status=403, text="not you")
    async with Service(listener) as service:
        journal = await carried_out(DEAD, {"request": HttpRequestAction({"url": service.url})})
    assert journal.progress is Progress.UNDONE
    assert len([one for one in listener.heard if one.method == "POST"]) == 1
    assert "not you" in journal.reason


async def test_verify_and_undo_have_addresses_of_their_own() -> None:
    listener = Listener()
    async with Service(listener) as service:
        urls = {"url": f"{service.url}/do", "verify_url": f"{service.url}/is", "undo_url": f"{service.url}/undo"}
        await carried_out(DEAD, {"request": HttpRequestAction(urls), "refuse": Refuse("")})
    assert [(one.method, one.path) for one in listener.heard] == [("POST", "/do"), ("GET", "/is"), ("POST", "/undo")]


@pytest.mark.parametrize("parameters", [{}, {"url": "http://x", "proof": "X"}, {"url": "http://x", "verb": "GET"}])
def test_wrong_parameters_are_named(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        HttpRequestAction(parameters)


def test_a_command_must_be_named() -> None:
    with pytest.raises(ValueError, match="command"):
        ExecAction({"command": []})
