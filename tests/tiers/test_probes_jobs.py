# SPDX-License-Identifier: Apache-2.0
"""The probes ``exec``, ``file-age`` and ``push``: programs of others, backups, jobs that report by themselves."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop
from processes import until
from tiers.asked import FAIL, INCONCLUSIVE, PASS, SHORT, WARN, ask, brief, target, until_brief

from ubisip.health.command import run
from ubisip.health.machine import Verdict
from ubisip.health.probe import Finding
from ubisip.health.probes.exec import ExecProbe
from ubisip.health.probes.file_age import FileAgeProbe
from ubisip.health.probes.push import PushProbe

HOUR = 3600.0


def script(directory: Path, text: str) -> str:
    path = directory / "check"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


# exec


@pytest.mark.parametrize(
    ("codes", "code", "verdict"),
    [
        ("nagios", 0, PASS),
        ("nagios", 1, WARN),
        ("nagios", 2, FAIL),
        ("nagios", 3, INCONCLUSIVE),
        ("nagios", 127, INCONCLUSIVE),
        ("ocf", 0, PASS),
        ("ocf", 8, PASS),
        ("ocf", 7, FAIL),
        ("ocf", 1, FAIL),
        ("ocf", 9, FAIL),
        ("ocf", 2, INCONCLUSIVE),
        ("ocf", 4, INCONCLUSIVE),
        ("ocf", 5, INCONCLUSIVE),
    ],
)
async def test_exec_exit_codes(tmp_path: Path, codes: str, code: int, verdict: Verdict) -> None:
    command = script(tmp_path, f"echo 'so it is | load=1'; exit {code}")
    finding = await ask(ExecProbe({"command": [command], "codes": codes}), "127.0.0.1:80")
    assert finding.sample.verdict is verdict
    assert (finding.facts["code"], finding.facts["output"]) == (code, "so it is")
    assert finding.facts["figures"] == "load=1"


async def test_exec_is_told_of_the_member_by_arguments_and_environment(tmp_path: Path) -> None:
    command = script(tmp_path, 'echo "$@ $UBISIP_TIER $UBISIP_MEMBER $UBISIP_USER $UBISIP_PASSWORD"')
    arguments = ["-H", "{host}", "-p{port}", "{name}/{site}", "{address}"]
    probe = ExecProbe({"command": [command, *arguments]})
    finding = await probe.check(target("192.0.2.1:80", "me", "secret"), 5)
    assert finding.facts["output"] == "-H 192.0.2.1 -p80 one/PA2 192.0.2.1:80 tier one me secret"


async def test_exec_one_that_hangs_has_failed_and_is_gone_with_its_children(tmp_path: Path) -> None:
    command = script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait")
    assert brief(await ask(ExecProbe({"command": [command]}), "x", timeout=SHORT)) == (FAIL, "timeout")
    child = int((tmp_path / "child").read_text())
    await until(lambda: not _runs(child), "the child to be gone")


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_exec_a_child_that_is_left_behind_does_not_hold_us_up(tmp_path: Path) -> None:
    command = script(tmp_path, "sleep 60 >/dev/null 2>&1 & exit 0")
    assert brief(await ask(ExecProbe({"command": [command]}), "x")) == (PASS, "ok")


def test_exec_is_the_same_on_the_loop_that_gateways_run_on(tmp_path: Path) -> None:
    """uvloop hands its ends of the pipes on to children, and minds when nobody reads what it writes."""

    async def all_of_it() -> None:
        probe = ExecProbe({"command": [script(tmp_path, "sleep 60 >/dev/null 2>&1 & exit 0")]})
        assert brief(await ask(probe, "x")) == (PASS, "ok")
        for _ in range(20):
            assert (await run(["false"], {}, b"x" * 1000, 5)).code == 1
        assert (await run(["cat"], {}, b"given", 5)).output == "given"
        with pytest.raises(TimeoutError):
            await run(["sleep", "60"], {}, b"", SHORT)

    uvloop.run(all_of_it())


async def test_exec_output_without_end_is_cut(tmp_path: Path) -> None:
    command = script(tmp_path, "head -c 30000000 /dev/zero | tr '\\0' x; exit 0")
    finding = await ask(ExecProbe({"command": [command]}), "x", timeout=20)
    assert brief(finding) == (PASS, "ok") and len(finding.facts["output"]) == 300


@pytest.mark.parametrize("command", ["/nowhere/check", "/etc/passwd"])
async def test_exec_what_cannot_be_started_is_inconclusive(command: str) -> None:
    assert brief(await ask(ExecProbe({"command": [command]}), "x")) == (INCONCLUSIVE, "exec.missing")


# file-age


def backup(directory: Path, name: str, age: float, size: int = 10) -> None:
    path = directory / name
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - age,) * 2)


async def test_file_age_the_newest_that_is_not_empty_counts(tmp_path: Path) -> None:
    probe = FileAgeProbe({"fail_after": 26 * HOUR, "warn_after": 25 * HOUR})
    pattern = f"{tmp_path}/*.dump"
    assert brief(await ask(probe, pattern)) == (FAIL, "file.missing")
    backup(tmp_path, "old.dump", 30 * HOUR)
    assert brief(await ask(probe, pattern)) == (FAIL, "old")
    backup(tmp_path, "empty.dump", 0, size=0)
    assert brief(await ask(probe, pattern)) == (FAIL, "old")
    backup(tmp_path, "recent.dump", 25.5 * HOUR)
    assert brief(await ask(probe, pattern)) == (WARN, "old")
    backup(tmp_path, "new.dump", HOUR)
    finding = await ask(probe, pattern)
    assert brief(finding) == (PASS, "ok")
    assert finding.facts["file"].endswith("new.dump") and HOUR - 5 < finding.facts["age"] < HOUR + 60


async def test_file_age_a_file_system_that_hangs_takes_one_thread_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, asked = threading.Event(), []

    def hang(pattern: str, **_: Any) -> list[str]:
        asked.append(pattern)
        answers.wait(20)
        return []

    monkeypatch.setattr("ubisip.health.probes.file_age.glob.iglob", hang)
    probe = FileAgeProbe({"fail_after": HOUR})
    assert brief(await ask(probe, "/nfs/*", timeout=SHORT)) == (FAIL, "timeout")
    for _ in range(40):
        assert brief(await ask(probe, "/nfs/*", timeout=SHORT)) == (INCONCLUSIVE, "file.hangs")
    assert asked == ["/nfs/*"]
    answers.set()

    async def look() -> Finding:
        return await ask(probe, "/nfs/*")

    await until_brief(look, (FAIL, "file.missing"))


async def test_file_age_a_folder_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "new.dump").mkdir()
    assert brief(await ask(FileAgeProbe({"fail_after": HOUR}), f"{tmp_path}/*")) == (FAIL, "file.missing")


# push


async def test_push_by_age_and_by_what_the_job_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1_000_000.0]
    monkeypatch.setattr("ubisip.health.probes.push.time.time", lambda: now[0])
    probe = PushProbe({"fail_after": 100, "warn_after": 50})
    assert brief(await ask(probe, "nightly job")) == (INCONCLUSIVE, "push.unknown")
    now[0] += 101
    assert brief(await ask(probe, "nightly job")) == (FAIL, "push.never")
    probe.mark("one")
    assert brief(await ask(probe, "nightly job")) == (PASS, "ok")
    now[0] += 51
    assert brief(await ask(probe, "nightly job")) == (WARN, "old")
    now[0] += 50
    assert brief(await ask(probe, "nightly job")) == (FAIL, "old")
    probe.mark("one", "failed", "disk full")
    finding = await ask(probe, "nightly job")
    assert brief(finding) == (FAIL, "push.failed") and "disk full" in finding.problem
    probe.mark("one", "warning", "slow")
    assert brief(await ask(probe, "nightly job")) == (WARN, "push.warning")


async def test_push_marks_outlive_a_restart(tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"fail_after": HOUR, "record_file": str(tmp_path / "marks.json")}
    PushProbe(parameters).mark("one", "failed", "disk full")
    assert brief(await ask(PushProbe(parameters), "x")) == (FAIL, "push.failed")


def test_push_a_record_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "marks.json").write_text('{"one": 5}')
    with pytest.raises(ValueError, match="record_file"):
        PushProbe({"fail_after": HOUR, "record_file": str(tmp_path / "marks.json")})


@pytest.mark.parametrize(
    ("probe", "parameters"),
    [
        (ExecProbe, {}),
        (ExecProbe, {"command": ["x"], "codes": "icinga"}),
        (FileAgeProbe, {}),
        (PushProbe, {"fail_after": 0}),
    ],
)
def test_wrong_parameters_are_named(probe: Any, parameters: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        probe(parameters)
