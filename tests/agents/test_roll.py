# SPDX-License-Identifier: Apache-2.0
"""The roll of users: what was put into it comes out of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ubisip.agents.roll import Roll
from ubisip.agents.secret import Secret

NAMES = st.text(st.characters(codec="utf-8") | st.sampled_from("\0\udcff@:"), max_size=12)
DIGITS = {"MD5": "0a" * 16, "SHA-256": "1b" * 32, "SHA-512-256": "00" * 32}
SECRETS = st.builds(
    Secret,
    st.none() | NAMES,
    st.sets(st.sampled_from(sorted(DIGITS))).map(lambda names: {name: DIGITS[name] for name in names}),
)


@given(st.lists(st.tuples(NAMES, NAMES, SECRETS)))
def test_it_holds_what_a_dictionary_would(rows: list[tuple[str, str, Secret]]) -> None:
    """A later HA1 takes the place of that of its algorithm, a later password that of all; the rest stays."""
    roll, expected = Roll(), dict[tuple[str, str], Secret]()
    for name, realm, secret in rows:
        roll.put(name, realm, secret)
        before = expected.pop((name, realm), Secret())
        more = Secret(before.password, {**before.ha1, **secret.ha1})
        expected[name, realm] = more if secret.password is None else secret
    assert {tuple(roll.user(at)): roll.secret(at) for at in roll} == expected
    assert [tuple(roll.user(at)) for at in roll] == list(expected)
    assert len(roll) == len(expected)
    for name, realm in expected:
        assert roll.secret(roll.place(name, realm)) == expected[name, realm]


def test_names_that_run_together_are_two_users() -> None:
    roll = Roll()
    roll.put("ab", "c", Secret("1"))
    assert roll.place("a", "bc") == roll.place("abc", "") == -1
    roll.put("a", "bc", Secret("2"))
    assert roll.secret(roll.place("ab", "c")).password == "1"
    assert roll.secret(roll.place("a", "bc")).password == "2"


def test_more_users_than_expected_have_room() -> None:
    roll = Roll(10)
    for number in range(1000):
        roll.put(f"agent{number}", "realm", Secret(f"{number}"))
    assert all(roll.secret(roll.place(f"agent{n}", "realm")).password == f"{n}" for n in range(1000))
