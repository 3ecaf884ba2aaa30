# SPDX-License-Identifier: Apache-2.0
"""Look-ups of credentials: digests, the deadline, what holds while the source is down, bounds."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

import pytest

from ubisip.agents import credentials
from ubisip.agents.breaker import FAILURES, FIRST_REST, LONGEST_REST, Breaker
from ubisip.agents.credentials import STALE_LIFETIME, UNKNOWN_LIFETIME, Answer, Lookups, Unavailable
from ubisip.agents.secret import Digests, Secret, digests_of, read_ha1

REALM = "ubisip.test"
REFRESH, CACHE = 60.0, 600.0


class Source:
    """Knows alice; ``behave`` runs at each look-up."""

    def __init__(self) -> None:
        self.users = {"alice": Secret("wonder")}
        self.asked: list[str] = []
        self.behave: Callable[[], object] = lambda: None

    async def credentials(self, user: str, realm: str) -> Secret | None:
        self.asked.append(user)
        outcome = self.behave()
        if isinstance(outcome, asyncio.Future):
            await outcome
        return self.users.get(user)


def down() -> None:
    raise Unavailable("db1:3306: gone")


class Scene:
    """Look-ups over a source, with a clock that stands."""

    def __init__(self) -> None:
        self.source = Source()
        self.now = 1_000.0
        self.told: list[str] = []
        self.lookups = Lookups(
            self.source, REFRESH, CACHE, lambda cause, text: self.told.append(text), lambda: self.now
        )

    async def ask(self, user: str = "alice") -> Answer | None:
        return await self.lookups.answer(user, REALM)

    def counts(self) -> dict[str, int]:
        return {kind: number for kind, number in self.lookups.results.items() if number}


def ha1(password: str, user: str = "alice") -> Digests:
    text = f"{user}:{REALM}:{password}".encode()
    return Digests(
        hashlib.md5(text).digest(), hashlib.sha256(text).digest(), hashlib.new("sha512_256", text).digest()
    )  # fmt: skip


async def test_a_user_is_answered_by_three_digests_that_hold_until_the_refresh() -> None:
    scene = Scene()
    assert await scene.ask() == Answer(ha1("wonder"), True, REFRESH)
    assert scene.counts() == {"found": 1}


async def test_who_is_not_there_is_unknown_for_a_short_time() -> None:
    scene = Scene()
    assert await scene.ask("mallory") == Answer(Digests(b"", b"", b""), False, UNKNOWN_LIFETIME)
    scene.source.users["mallory"] = Secret("now")
    answer = await scene.ask("mallory")
    assert answer is not None and answer.known


async def test_a_changed_password_is_what_the_next_look_up_says() -> None:
    scene = Scene()
    await scene.ask()
    scene.source.users["alice"] = Secret("changed")
    answer = await scene.ask()
    assert answer is not None and answer.digests == ha1("changed")


async def test_the_source_is_down_known_agents_stay_for_the_stated_time_others_fail() -> None:
    scene = Scene()
    await scene.ask()
    scene.source.behave = down
    scene.now += REFRESH
    assert await scene.ask() == Answer(ha1("wonder"), True, STALE_LIFETIME)
    assert await scene.ask("bob") is None
    scene.now += CACHE - 1
    assert await scene.ask() == Answer(ha1("wonder"), True, 1.0)
    scene.now += 1
    assert await scene.ask() is None
    assert scene.counts() == {"found": 1, "cached": 2, "failed": 2}
    assert "db1:3306: gone" in scene.told[0]


async def test_a_user_who_was_deleted_is_not_known_any_more_when_the_source_goes_down() -> None:
    scene = Scene()
    await scene.ask()
    del scene.source.users["alice"]
    await scene.ask()
    scene.source.behave = down
    assert await scene.ask() is None


async def test_a_source_that_failed_often_is_left_alone_then_tried_by_one() -> None:
    scene = Scene()
    scene.source.behave = down
    for _ in range(FAILURES + 10):
        assert await scene.ask() is None
    assert len(scene.source.asked) == FAILURES and scene.lookups.is_down
    scene.now += FIRST_REST
    assert await asyncio.gather(*(scene.ask() for _ in range(5))) == [None] * 5
    assert len(scene.source.asked) == FAILURES + 1
    scene.source.behave = lambda: None
    scene.now += 2 * FIRST_REST
    answer = await scene.ask()
    assert answer is not None and answer.known and not scene.lookups.is_down


async def test_a_source_that_is_late_counts_as_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "LOOKUP_LIMIT", 0.02)
    scene = Scene()
    await scene.ask()
    scene.source.behave = lambda: asyncio.get_running_loop().create_future()
    answer = await scene.ask()
    assert answer is not None and answer.lifetime == STALE_LIFETIME
    assert "no answer within 0.02 s" in scene.told[0]


async def test_whatever_a_hook_raises_is_told_and_costs_nothing_else() -> None:
    scene = Scene()
    scene.source.behave = lambda: 1 / 0
    assert await scene.ask() is None
    assert "ZeroDivisionError" in scene.told[0]


async def test_look_ups_at_a_time_are_bounded_and_so_are_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_LOOKUPS", 2)
    monkeypatch.setattr(credentials, "MAX_WAITING", 5)
    scene = Scene()
    gate = asyncio.get_running_loop().create_future()
    scene.source.behave = lambda: gate
    asking = [asyncio.ensure_future(scene.ask(f"user{number}")) for number in range(8)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(scene.source.asked) == 2
    gate.set_result(None)
    answers = await asyncio.gather(*asking)
    assert answers[5:] == [None] * 3 and all(answers[:5])
    assert scene.counts() == {"unknown": 5, "full": 3}


async def test_what_is_remembered_is_bounded_who_was_not_seen_longest_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(credentials, "MAX_REMEMBERED", 2)
    scene = Scene()
    scene.source.users |= {"bob": Secret("b"), "carol": Secret("c")}
    for user in ("alice", "bob", "alice", "carol"):
        await scene.ask(user)
    scene.source.behave = down
    assert [bool(await scene.ask(user)) for user in ("alice", "bob", "carol")] == [True, False, True]


async def test_a_name_that_is_no_text_is_nobody_and_no_source_is_asked() -> None:
    scene = Scene()
    answer = await scene.ask(b"al\xffice".decode("utf-8", "surrogateescape"))
    assert answer is not None and not answer.known
    assert scene.source.asked == []


def test_ha1s_come_before_what_the_password_gives() -> None:
    stored = "0" * 31 + "a"
    mixed = digests_of(Secret("wonder", {"MD5": stored}), "alice", REALM)
    assert mixed == ha1("wonder")._replace(md5=bytes.fromhex(stored))
    assert digests_of(Secret(ha1={"SHA-256": "ab" * 32}), "alice", REALM) == (b"", b"\xab" * 32, b"")


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a" * 32, ("MD5", "a" * 32)),
        (" " + "B" * 64, ("SHA-256", "B" * 64)),
        ("sha-512-256:" + "c" * 64, ("SHA-512-256", "c" * 64)),
        ("MD5:" + "d" * 32, ("MD5", "d" * 32)),
    ],
)
def test_an_ha1_is_told_by_its_length_or_mark(text: str, read: tuple[str, str]) -> None:
    assert read_ha1(text) == read


@pytest.mark.parametrize("text", ["", "a" * 31, "g" * 32, "SHA-256:" + "a" * 32, "SHA-1:" + "a" * 40, "٣" * 32])
def test_what_is_no_ha1_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="an HA1") as caught:
        read_ha1(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("ha1s", [{"SHA-1": "a" * 40}, {"MD5": "a" * 64}, {"MD5": "xyz"}])
def test_a_hook_cannot_give_a_secret_that_is_none(ha1s: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="hex digits"):
        Secret(ha1=ha1s)


def test_no_secret_is_shown() -> None:
    assert "wonder" not in repr(Secret("wonder", {"MD5": "ab" * 16})) and "abab" not in repr(
        Secret(None, {"MD5": "ab" * 16})
    )


def test_the_rest_of_a_breaker_grows_to_a_bound() -> None:
    breaker, now = Breaker(), 0.0
    for _ in range(FAILURES):
        breaker.failed(now)
    rests = []
    for _ in range(8):
        before = now
        while not breaker.lets_pass(now):
            now += 0.5
        rests.append(now - before)
        breaker.failed(now)
    assert rests == [1, 2, 4, 8, LONGEST_REST, LONGEST_REST, LONGEST_REST, LONGEST_REST]
