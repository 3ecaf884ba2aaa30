# SPDX-License-Identifier: Apache-2.0
"""The roll of users: what was put into it comes out of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ubisip.agents.roll import Roll
from ubisip.agents.secret import Digests

NAMES = st.text(st.characters(codec="utf-8") | st.sampled_from("\0\udcff@:"), max_size=12)
DIGESTS = st.builds(
    Digests,
    st.sampled_from([b"", b"\0" * 16, b"\x01" * 16]),
    st.sampled_from([b"", b"\0" * 32, b"\x02" * 32]),
    st.sampled_from([b"", b"\x03" * 32]),
)


@given(st.lists(st.tuples(NAMES, NAMES, DIGESTS)))
def test_it_holds_what_a_dictionary_would(rows: list[tuple[str, str, Digests]]) -> None:
    """Later digests take the place of earlier ones of the same user, those that are missing do not."""
    roll, expected = Roll(), dict[tuple[str, str], Digests]()
    for name, realm, digests in rows:
        roll.put(name, realm, digests)
        before = expected.get((name, realm), digests)
        expected[name, realm] = Digests(*(new or old for new, old in zip(digests, before, strict=True)))
    assert {tuple(roll.user(at)): roll.digests(at) for at in roll} == expected
    assert [tuple(roll.user(at)) for at in roll] == list(expected)
    assert len(roll) == len(expected)
    for name, realm in expected:
        assert roll.digests(roll.place(name, realm)) == expected[name, realm]


def test_names_that_run_together_are_two_users() -> None:
    roll = Roll()
    roll.put("ab", "c", Digests(b"1" * 16, b"", b""))
    assert roll.place("a", "bc") == roll.place("abc", "") == -1
    roll.put("a", "bc", Digests(b"2" * 16, b"", b""))
    assert roll.digests(roll.place("ab", "c")).md5 == b"1" * 16
    assert roll.digests(roll.place("a", "bc")).md5 == b"2" * 16


def test_more_users_than_expected_have_room() -> None:
    roll = Roll(10)
    for number in range(1000):
        roll.put(f"agent{number}", "realm", Digests(b"%016d" % number, b"", b""))
    assert all(roll.digests(roll.place(f"agent{n}", "realm")).md5 == b"%016d" % n for n in range(1000))
