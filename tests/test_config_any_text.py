# SPDX-License-Identifier: Apache-2.0
"""Whatever a configuration file holds, it is a configuration or a ConfigError with mistakes in the file."""

from __future__ import annotations

import pytest
from config_texts import AGENTS, GOOD, TIER
from hypothesis import example, given
from hypothesis import strategies as st

from ubisip.config import Config
from ubisip.errors import ConfigError

LINES = (
    GOOD + TIER + AGENTS + "[routing]\nt1 = 0.1\npolicy = 'hash'\nfailover_on = [500]\n[health.sip]\nfall = 2\n"
).split("\n")
VALUES = st.sampled_from([
    "1", "-1", "0", "0.5", "nan", "inf", "1e400", "0x" + "f" * 9_000, "9" * 5_000, "true", '""', '"x"', "'sip:[::1]'",
    "[]", "{}", "[[]]", "[1, 'a', {}]", "{ a = 1 }", "[{}]", "07:32:00", "1979-05-27", '"udp:0.0.0.0:1"',
    "['udp:[::]:9']", "'::1/0'", "['0.0.0.0/0']", "[{ name = 'a' }]", '"\u0000"', '"\U0010ffff"',
    "'" + "x" * 5_000 + "'",
])  # fmt: skip


def check(text: str) -> None:
    """The one sentence: parse() returns a Config or raises ConfigError, whose mistakes lie in the text."""
    try:
        config = Config.parse(text)
    except ConfigError as error:
        assert error.mistakes
        assert all(0 <= mistake.line <= text.count("\n") + 1 for mistake in error.mistakes)
        assert all(str(mistake).isprintable() for mistake in error.mistakes)
    else:
        assert config.gateways
        assert config.servers


@given(st.text())
@example("\ud800 = 1")
@example('a = "\ud800"')
@example("# \ud800\n" + GOOD)
@example("[platform]\n" + ".".join("a" * 5_000) + " = 1")
@example("[actions]\n" + ".".join("a" * 900) + " = 1")
def test_any_text(text: str) -> None:
    check(text)


@given(st.lists(st.tuples(st.integers(0, len(LINES) - 1), VALUES), min_size=1, max_size=4))
def test_any_value_of_any_key(changes: list[tuple[int, str]]) -> None:
    lines = list(LINES)
    for index, value in changes:
        key, equals, _ = lines[index].partition(" = ")
        lines[index] = f"{key} = {value}" if equals else lines[index]
    check("\n".join(lines))


@given(st.lists(st.sampled_from(LINES), max_size=40))
def test_any_order_of_lines(lines: list[str]) -> None:
    check("\n".join(lines))


@given(st.integers(0, len(GOOD)), st.integers(0, 8), st.text(alphabet="[]{}='\".,#\\\n a1:", max_size=6))
def test_a_slip_of_the_hand(at: int, length: int, typed: str) -> None:
    check(GOOD[:at] + typed + GOOD[at + length :])


@given(st.binary())
def test_any_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        Config.load(path)
