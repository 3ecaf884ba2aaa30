# SPDX-License-Identifier: Apache-2.0
"""Global transaction ids: what lists of them contain, lack and have too much; the parameters of the actions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ubisip.failover import gtid
from ubisip.failover.action import ActionError
from ubisip.failover.actions.mariadb_promote import PromoteAction
from ubisip.failover.actions.mariadb_steps import fence
from ubisip.health.probe import Target
from ubisip.health.probes.mariadb import MariadbProbe


def test_a_list_is_read_and_written() -> None:
    state = gtid.parse_state("0-1-523, 0-2-12,7-1-4")
    assert state == {(0, 1): 523, (0, 2): 12, (7, 1): 4}
    assert gtid.text(state) == "0-1-523,0-2-12,7-1-4"
    assert gtid.parse_state("") == {}


@pytest.mark.parametrize("text", ["0-1", "0-1-2-3", "a-b-c", "0-1-2;0-2-3"])
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        gtid.parse_state(text)


@pytest.mark.parametrize(
    ("one", "other", "ignore", "expected"),
    [
        ("0-1-5", "0-1-5", 0, ""),
        ("0-1-6", "0-1-5", 0, "0-1-6"),
        ("0-1-6", "0-1-5", 1, ""),
        ("0-1-5,0-2-6", "0-1-5", 0, "0-2-6"),
        ("0-1-5,0-2-6", "0-1-5,0-2-7", 0, ""),
        ("0-1-5", "", 0, "0-1-5"),
        ("0-1-5,7-1-1", "0-1-9", 0, "7-1-1"),
    ],
)
def test_what_one_has_and_the_other_lacks(one: str, other: str, ignore: int, expected: str) -> None:
    assert gtid.text(gtid.surplus(gtid.parse_state(one), gtid.parse_state(other), ignore)) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("0-1-399,0-2-1179", "0-1-400,0-2-1179", "0-1-400"),  # a crashed primary that has dropped its own
        ("0-1-399", "0-1-400", ""),  # it is merely behind
        ("0-1-400,0-2-1179", "0-1-400,0-2-1200", ""),
        ("0-2-1179", "0-1-400,0-2-1179", ""),  # made from a backup: what came before is in its data
    ],
)
def test_holes(one: str, other: str, expected: str) -> None:
    assert gtid.text(gtid.holes(gtid.parse_state(one), gtid.parse_state(other))) == expected


def test_how_far_one_is_behind() -> None:
    assert gtid.behind({0: 5}, {0: 9, 7: 2}) == 6
    assert gtid.behind({0: 9, 7: 2}, {0: 5}) == 0


def test_parameters_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fense"):
        PromoteAction({"fense": ["true"]})
    with pytest.raises(ValueError, match="replication_password_file"):
        PromoteAction({"replication_password_file": 3})
    with pytest.raises(ValueError, match="file that holds the secret"):
        PromoteAction({"replication_password_file": str(tmp_path / "none")})
    with pytest.raises(ValueError, match="lagg"):
        MariadbProbe({"lagg": 3})
    assert PromoteAction({"fence": ["true"], "catch_up": 5}).setting.parameters.catch_up == 5


TARGET = Target("database", "db-1", "PA2", "127.0.0.1:3311")


async def test_the_fence_command_is_told_whom_and_judged_by_its_exit_code(tmp_path: Path) -> None:
    note = tmp_path / "note"
    words = ["sh", "-c", f"echo $0 $1 $2 > {note}", "{name}", "{host}:{port}", "{site}"]
    await fence(TARGET, PromoteAction({"fence": words}).setting.parameters)
    assert note.read_text() == "db-1 127.0.0.1:3311 PA2\n"
    for words, text in ([["false"], "exit code 1"], [["/no/such"], "cannot be run"], [["sleep", "9"], "not ended"]):
        with pytest.raises(ActionError, match=text):
            await fence(TARGET, PromoteAction({"fence": words, "fence_timeout": 0.2}).setting.parameters)
