# SPDX-License-Identifier: Apache-2.0
"""Who leads when the gateways do not see the same: the decision as a table, and whole platforms in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tiers.mariadb_cases import rows
from tiers.virtual import TIER, Memory, MemoryStore, Site, World, clock, fake_plugins, platform, until, virtually

from ubisip import plugins
from ubisip.failover.lease import CAMPAIGN, PATIENCE, TTL, Keys, Leadership, Member
from ubisip.failover.placement import FINISH, HOLD, RESPITE, Placement, Sight, sight

NAMES = ("pa2-gw1", "pa5-gw1", "w-gw1")
DATABASES = TIER.replace('kind = "fake"', 'kind = "acted"')
CUT = {"PA2": {"c"}, "PA5": {"a", "b"}}
"""Whom each site does not see when nothing passes between the two."""
NOTICED = 2.5
"""Seconds in which a silent member is down, two time-outs included, and the others know of it."""

DECISIONS = """
# we see  best sees  for  we    plans  last gave up  the lease
4         4          9    lead  none   never         kept        # all is well
2         4          2    lead  none   never         given up    # cut from a site that the witness sees
2         4          0.5  lead  none   never         kept        # it may be the first to find it down
3         4          2    lead  none   never         given up    # a single member is out of our reach
2         2          9    lead  none   never         kept        # no witness: nobody is better
3         3          9    lead  none   never         kept        # a dead member is seen by nobody
0         4          2    lead  none   never         given up    # we are ill: we abstain on all
4         2          9    lead  none   never         kept
0         0          9    lead  none   never         kept        # nobody else lives
4         4+         9    lead  none   never         kept        # it stands better, and sees no more
3         4+         2    lead  none   never         given up
3+        4          2    lead  none   never         given up    # a witness that sees less
2         4          2    lead  one    never         kept        # what is begun may end
2         4          11   lead  one    never         given up    # it does not
2         4          2    lead  none   20            kept        # given up in vain a moment ago
2         4          2    lead  none   40            given up
2         4          9    -     none   never         kept        # it is not ours
"""


def as_sight(text: str) -> Sight:
    return Sight(int(text.rstrip("+")), text.endswith("+"))


@pytest.mark.parametrize("row", rows(DECISIONS), ids=" ".join)
def test_when_the_lease_is_given_up(row: list[str]) -> None:
    own, best, lasting, leads, plans, last, end = row
    now = 1000.0
    placement = Placement()
    if last != "never":
        placement.given_up_at = now + float(lasting) - float(last)
    told = {"leads": leads == "lead", "busy": plans == "one"}
    assert not placement.gives_up(as_sight(own), as_sight(best), now, **told), "it must last"
    given = placement.gives_up(as_sight(own), as_sight(best), now + float(lasting), **told)
    assert given is (end == "given up")


def test_a_difference_that_ends_counts_from_its_next_beginning() -> None:
    placement, less, more = Placement(), Sight(3), Sight(4)
    assert not placement.gives_up(less, more, 0.0, leads=True, busy=False)
    assert not placement.gives_up(more, more, HOLD, leads=True, busy=False)
    assert not placement.gives_up(less, more, HOLD + 0.1, leads=True, busy=False)
    assert placement.gives_up(less, more, 2 * HOLD + 0.2, leads=True, busy=False)


def test_what_a_gateway_sees_is_what_it_finds_up_in_the_tiers_that_count() -> None:
    votes = {"db": {"a": "up", "b": "down", "c": "abstain", "d": "up"}, "web": {"w": "up"}}
    assert sight(votes, ["db", "other"]) == Sight(2)
    assert sight({}, ["db"]) < sight(votes, ["db"]) < sight(votes, ["db"], elsewhere=True) < Sight(3)


def test_tiers_of_databases_count_and_pools_do_not() -> None:
    assert plugins.policy("mariadb").acts_at_members and not plugins.policy("http").acts_at_members


# Whole platforms


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with fake_plugins(monkeypatch) as it:
        yield it


class Platform:
    """Three gateways, of which *first* leads; ``led`` has every leader in turn, and that there are never two."""

    def __init__(self, first: str) -> None:
        memory, config = Memory(), platform(*NAMES, tier=DATABASES)
        names = sorted(NAMES, key=lambda name: name != first)
        self.sites = {name: Site(config, name, memory) for name in names}
        self.led: list[str] = []

    async def __aenter__(self) -> Platform:
        for site in self.sites.values():
            site.start()
        self._look = asyncio.get_running_loop().create_task(self._watch())
        await asyncio.sleep(5)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._look.cancel()
        for site in self.sites.values():
            site.store.cut = False
            await site.tiers.stop()

    async def _watch(self) -> None:
        while True:
            leading = [name for name, site in self.sites.items() if site.leads]
            assert len(leading) <= 1
            if leading and leading != self.led[-1:]:
                self.led += leading
            await asyncio.sleep(0.01)

    async def until_led_by(self, name: str, limit: float) -> None:
        await until(lambda: self._look.done() or self.led[-1:] == [name], limit)
        assert not self._look.done(), "two led"


@pytest.mark.parametrize("first", NAMES)
def test_two_sites_cut_are_led_by_who_sees_both(world: World, first: str) -> None:
    async def work() -> None:
        async with Platform(first) as it:
            assert it.led == [first], "while all is well nothing is moved"
            world.unseen = CUT
            await it.until_led_by("w-gw1", NOTICED + HOLD + 2 * CAMPAIGN)
            world.unseen = {}
            await asyncio.sleep(RESPITE + 10)
            assert it.led == list(dict.fromkeys([first, "w-gw1"])), "once, and not back again"
            audits = it.sites[first].record.audits
            assert (("controller", "lead", "given up") in audits) is (first != "w-gw1")

    virtually(work)


@pytest.mark.parametrize("first", NAMES)
def test_what_nobody_sees_moves_nothing(world: World, first: str) -> None:
    async def work() -> None:
        async with Platform(first) as it:
            world.unseen = {site: {"a"} for site in ("PA2", "PA5", "W")}
            await asyncio.sleep(20)
            world.down.add("b")
            await asyncio.sleep(20)
            assert it.led == [first]

    virtually(work)


def test_without_a_leader_the_witness_bids_first(world: World) -> None:
    """Its site has no databases: the loss of another one does not cost the lease as well."""

    async def work() -> None:
        async with Platform("pa2-gw1") as it:
            await it.sites["pa2-gw1"].kill()
            await it.until_led_by("w-gw1", TTL + 2 * CAMPAIGN)
            assert it.led == ["pa2-gw1", "w-gw1"]

    virtually(work)


def test_without_a_leader_who_sees_less_bids_last(world: World) -> None:
    async def work() -> None:
        async with Platform("pa2-gw1") as it:
            world.unseen = {"W": {"c"}}
            await asyncio.sleep(5)
            await it.sites["pa2-gw1"].kill()
            await it.until_led_by("pa5-gw1", TTL + 2 * CAMPAIGN)
            assert it.led == ["pa2-gw1", "pa5-gw1"]

    virtually(work)


def test_a_plan_that_runs_is_ended_before_the_lease_is_given_up(world: World) -> None:
    async def work() -> None:
        async with Platform("pa2-gw1") as it:
            world.hanging.add("fence")
            world.down.add("a")
            await until(lambda: it.sites["pa2-gw1"].record.steps, 5.0)
            world.unseen = {"PA2": {"c"}}
            await asyncio.sleep(NOTICED + HOLD)
            assert it.led == ["pa2-gw1"], "the step that hangs has a deadline of 5 s"
            world.hanging.clear()
            await it.until_led_by("w-gw1", 5.0)
            assert it.sites["pa2-gw1"].record.plans[-1][1] == "undone"

    virtually(work)


def test_a_plan_that_cannot_end_here_is_ended_by_who_leads_next(world: World) -> None:
    async def work() -> None:
        async with Platform("pa2-gw1") as it:
            world.hanging.add("promote")
            world.down.add("a")
            await until(lambda: "fence b" in world.done, 5.0)
            world.unseen = {"PA2": {"c"}}
            await it.until_led_by("w-gw1", NOTICED + FINISH + 2 * CAMPAIGN)
            world.hanging.clear()
            await until(lambda: world.done == ["fence b", "promote b", "follow b"], 20.0)

    virtually(work)


def leadership(memory: Memory, name: str) -> tuple[Leadership, MemoryStore]:
    store = MemoryStore(memory)
    return Leadership(store, Keys("p"), Member(name, "PA2", 2, {}), clock), store


def test_a_free_lease_is_left_to_a_better_one_for_a_while_only() -> None:
    """Who sees more may be unable to lead."""

    async def work() -> None:
        it, _ = leadership(Memory(), "one")
        it.outranked = True
        run = asyncio.get_running_loop().create_task(it.run())
        took = await until(lambda: it.epoch)
        assert PATIENCE <= took <= PATIENCE + 2 * CAMPAIGN
        run.cancel()

    virtually(work)


def test_who_has_given_the_lease_up_believes_in_it_no_more_whatever_the_store_says() -> None:
    async def work() -> None:
        memory = Memory()
        (one, store), (other, _) = leadership(memory, "one"), leadership(memory, "other")
        await one.turn()
        first, lease = one.epoch, one.lease
        assert first
        store.cut = True
        one.hand_over()
        assert not one.epoch
        await one.turn()
        store.cut = False
        await other.turn()
        assert not other.epoch, "the store does not know yet"
        one.outranked = True
        await one.turn()
        assert not one.epoch and one.lease == lease, "what we publish under the lease stays"
        await other.turn()
        assert other.epoch > first
        await one.turn()
        assert one.leader == "other" and not one.epoch

    virtually(work)


def test_a_leader_that_gives_up_in_vain_leads_on_and_waits_before_it_does_so_again() -> None:
    async def work() -> None:
        it, _ = leadership(Memory(), "one")
        run = asyncio.get_running_loop().create_task(it.run())
        placement, given = Placement(), []
        await until(lambda: it.epoch)
        while clock() < 2 * RESPITE:
            it.outranked = True
            if placement.gives_up(Sight(2), Sight(4), clock(), leads=bool(it.epoch), busy=False):
                given.append(clock())
                it.hand_over()
            await asyncio.sleep(0.1)
        assert len(given) == 2 and given[1] - given[0] >= RESPITE and it.epoch
        run.cancel()

    virtually(work)
