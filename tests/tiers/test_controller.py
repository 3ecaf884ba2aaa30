# SPDX-License-Identifier: Apache-2.0
"""Controllers of a platform in virtual time: who leads, what is done, what is not, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from tiers.virtual import (
    PLATFORM,
    TIER,
    Memory,
    Site,
    World,
    clock,
    fake_plugins,
    gateways,
    platform,
    until,
    virtually,
)

from ubisip.config import Config
from ubisip.failover.controller import NotLeading, Refused, UnknownTier
from ubisip.failover.coordination import Put
from ubisip.failover.lease import TTL, differences
from ubisip.failover.notices import REPEAT
from ubisip.failover.planner import COOL_DOWN
from ubisip.proxy.tiers import fingerprint_of

PROMOTED = ["fence b", "promote b", "follow b"]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with fake_plugins(monkeypatch) as it:
        yield it


Work = Callable[[dict[str, Site]], Awaitable[None]]


def run(work: Work, *names: str, config: Config | None = None, warm: float = 3.0) -> dict[str, Site]:
    """Gateways of these names, started, for *warm* seconds, before *work*."""
    sites: dict[str, Site] = {}

    async def whole() -> None:
        memory = Memory()
        for name in names:
            sites[name] = Site(config or platform(*names), name, memory).start()
        await asyncio.sleep(warm)
        try:
            await work(sites)
        finally:
            for site in sites.values():
                site.store.cut = site.store.memory.down = False
                await site.tiers.stop()

    virtually(whole)
    return sites


def leader(sites: dict[str, Site]) -> Site:
    """The one that leads; there are never two."""
    leading = [site for site in sites.values() if site.leads]
    assert len(leading) == 1, f"{len(leading)} lead"
    return leading[0]


def test_a_dead_member_is_replaced_within_a_second_and_people_are_told(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        assert sites["pa2-gw1"].verdict() == "healthy"
        world.down.add("a")
        assert await until(lambda: world.done == PROMOTED) < 1.0
        await asyncio.sleep(5)
        assert world.done == PROMOTED, "it is done once"
        record = sites["pa2-gw1"].record
        assert record.transitions == [("unknown", "healthy"), ("healthy", "member-down")]
        assert [progress for _, progress in record.plans] == ["running", "done"]
        assert record.steps == [(do, state) for do in ("fence", "promote", "follow") for state in ("doing", "done")]
        assert ("controller", "plan for db", "done") in record.audits
        assert {notice.severity for notice in world.notices if notice.key.startswith("plan/db/")} == {"critical"}

    run(work, "pa2-gw1")


def test_what_a_refused_connection_takes_to_be_acted_upon(world: World) -> None:
    """Not what the whole takes, but that the controller itself adds next to nothing to the prober's rise and fall."""

    async def work(sites: dict[str, Site]) -> None:
        world.down.add("a")
        began = clock()
        await until(lambda: sites["pa2-gw1"].verdict() == "member-down")
        judged = clock() - began
        await until(lambda: len(world.done) == 3)
        assert clock() - began - judged < 0.3

    run(work, "pa2-gw1")


def test_one_leads_and_another_follows_within_ten_seconds_of_its_death(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        first = leader(sites)
        await first.kill()
        rest = {name: site for name, site in sites.items() if site is not first}
        assert await until(lambda: any(site.leads for site in rest.values())) < TTL + 2.0
        leader(rest)
        world.down.add("a")
        await until(lambda: world.done == PROMOTED, 5.0)

    run(work, "pa2-gw1", "pa5-gw1", "w-gw1")


def test_two_domains_must_agree(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        world.unseen[leader(sites).tiers.config.gateway(leader(sites).name).site] = {"a"}
        await asyncio.sleep(120)
        assert world.done == []
        against = leader(sites).tiers.controller.explain("db")["against"]
        assert any("must be down for 2 failure domains" in reason for reason in against)
        assert any("is up for" in reason for reason in against)
        world.unseen = {site: {"a"} for site in ("PA2", "PA5", "W")}
        await until(lambda: world.done == PROMOTED, 5.0)

    run(work, "pa2-gw1", "pa5-gw1", "w-gw1")


def test_a_gateway_that_is_gone_does_not_hold_the_others_up(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        first = leader(sites)
        victim = next(site for site in sites.values() if site is not first)
        await victim.kill()
        world.down.add("a")
        await until(lambda: world.done == PROMOTED, 5.0)

    run(work, "pa2-gw1", "pa5-gw1", "w-gw1")


def test_without_the_store_nothing_global_is_done_and_local_things_are(world: World) -> None:
    tier = TIER + '[tiers.web]\nkind = "other"\nmode = "automatic"\non_member_down = ["drain"]\n'
    tier += 'members = [{ name = "w1", site = "PA2", address = "x" }, { name = "w2", site = "PA5", address = "x" }]\n'

    async def work(sites: dict[str, Site]) -> None:
        sites["pa2-gw1"].store.memory.down = True
        await asyncio.sleep(30)
        assert not any(site.leads for site in sites.values())
        world.down |= {"a", "w1"}
        await until(lambda: world.done.count("drain w1") == 2, 10.0)
        await asyncio.sleep(300)
        assert set(world.done) == {"drain w1"}, "each gateway did what is local, nobody what is not"
        assert any("does not answer" in notice.text or "no answer" in notice.text for notice in world.notices)
        sites["pa2-gw1"].store.memory.down = False
        await until(lambda: world.done[-3:] == PROMOTED, 15.0)

    run(work, "pa2-gw1", "pa5-gw1", config=platform("pa2-gw1", "pa5-gw1", tier=tier))


def test_a_leader_cut_off_from_the_store_stops_before_another_begins(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        first = leader(sites)
        first.store.cut = True
        began, stopped = clock(), 0.0
        while not any(site.leads for site in sites.values() if site is not first):
            stopped = stopped or (0.0 if first.leads else clock() - began)
            await asyncio.sleep(0.01)
        assert 0 < stopped < TTL and not first.leads

    run(work, "pa2-gw1", "pa5-gw1", "w-gw1")


def test_after_a_success_it_asks(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        for _flap in range(5):
            world.down.add("a")
            await asyncio.sleep(10)
            world.down.discard("a")
            await asyncio.sleep(10)
        assert world.done == PROMOTED
        world.down.add("a")
        await asyncio.sleep(10)
        (row,) = sites["pa2-gw1"].tiers.controller.describe()["tiers"]
        assert 0 < row["cool_down"] < COOL_DOWN
        assert "waits for `ubisip failover db`" in sites["pa2-gw1"].tiers.controller.explain("db")["against"][0]
        journal = await sites["pa2-gw1"].tiers.controller.order("db", "failover", "c", "alice")
        assert journal["progress"] == "done" and world.done[-1] == "follow c"

    run(work, "pa2-gw1")


@pytest.mark.parametrize(
    ("mode", "text"), [("ask", "it waits for `ubisip failover db`"), ("observe", "mode is observe")]
)
def test_modes(world: World, mode: str, text: str) -> None:
    async def work(sites: dict[str, Site]) -> None:
        world.down.add("a")
        await asyncio.sleep(30)
        assert world.done == []
        told = [notice.text for notice in world.notices if notice.key == "tier/db/verdict"]
        assert text in told[-1]
        assert (await sites["pa2-gw1"].tiers.controller.order("db", "failover", "", "alice"))["progress"] == "done"

    run(work, "pa2-gw1", config=platform("pa2-gw1", tier=TIER.replace("automatic", mode)))


def test_pause_holds_automatic_action_on_all_gateways_until_resume(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        first = leader(sites)
        follower = next(site for site in sites.values() if site is not first)
        await follower.tiers.controller.pause("alice")
        await asyncio.sleep(2)
        world.down.add("a")
        await asyncio.sleep(60)
        assert world.done == [] and first.tiers.controller.paused == "alice"
        assert "paused by alice" in first.tiers.controller.explain("db")["against"][0]
        await follower.tiers.controller.resume("bob")
        await until(lambda: world.done == PROMOTED, 5.0)

    run(work, "pa2-gw1", "pa5-gw1")


def test_an_operator_asks_who_leads(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        first = leader(sites)
        follower = next(site for site in sites.values() if site is not first)
        with pytest.raises(NotLeading) as caught:
            await follower.tiers.controller.order("db", "failover", "", "alice")
        assert caught.value.leader == first.name
        with pytest.raises(UnknownTier, match="there are: a, b, c"):
            first.tiers.controller.explain("db", "failover", "nobody")
        journal = await first.tiers.controller.order("db", "failover", "c", "alice")
        assert journal["cause"] == "switchover" and world.done == ["fence c", "promote c", "follow c"]
        assert (await first.tiers.controller.order("db", "failback", "a", "alice"))["progress"] == "done"

    run(work, "pa2-gw1", "pa5-gw1")


def test_every_gateway_shows_the_plan_of_the_one_that_leads(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        first = leader(sites)
        follower = next(site for site in sites.values() if site is not first)
        world.hanging.add("promote")
        world.down.add("a")
        await until(lambda: "fence b" in world.done, 5.0)
        await asyncio.sleep(2)
        (running,) = follower.tiers.controller.describe()["running"]
        assert [step["state"] for step in running["steps"]] == ["done", "doing", "waiting"]
        world.hanging.clear()
        await asyncio.sleep(30)
        plans = {site.name: site.tiers.controller.describe()["plans"][0]["id"] for site in sites.values()}
        assert len(set(plans.values())) == 1

    run(work, "pa2-gw1", "pa5-gw1")


def test_a_dry_run_gives_the_very_plan_and_does_nothing(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        told = sites["pa2-gw1"].tiers.controller.explain("db", "failover", "c", "alice")
        assert told["permitted"] and [step["text"] for step in told["steps"]] == [
            "promote fence c", "promote promote c", "promote follow c",
        ]  # fmt: skip
        assert world.done == []

    run(work, "pa2-gw1")


def test_a_step_that_fails_before_the_point_of_no_return_is_undone_and_tried_again_later(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        world.failing["promote"] = "the disk is full"
        world.down.add("a")
        await until(lambda: "undo fence b" in world.done, 5.0)
        world.failing.clear()
        await until(lambda: world.done[-3:] == PROMOTED, 10.0)
        assert world.done == ["fence b", "undo fence b", *PROMOTED]

    run(work, "pa2-gw1")


def test_after_three_failures_a_person_is_asked(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        world.failing["fence"] = "no power to switch off"
        world.down.add("a")
        await asyncio.sleep(300)
        results = [progress for _, progress in sites["pa2-gw1"].record.plans]
        assert results == ["running", "undone"] * 3
        assert any("plans for it failed" in notice.text for notice in world.notices)

    run(work, "pa2-gw1")


def test_what_is_local_is_tried_until_it_succeeds(world: World) -> None:
    """A proxy that is down for five minutes must still be told afterwards."""

    async def work(sites: dict[str, Site]) -> None:
        world.failing["drain"] = "no proxy there"
        world.down.add("a")
        await asyncio.sleep(300)
        assert "drain a" not in world.done
        told = [notice for notice, _ in sites["pa2-gw1"].tiers.controller._notices.open()]
        assert sorted(notice.key for notice in told) == ["plan/db/member-down", "tier/db/verdict"], "one for all tries"
        world.failing.clear()
        await until(lambda: world.done[-1] == "drain a", 61.0)

    run(work, "pa2-gw1", config=platform("pa2-gw1", tier=TIER.replace('"promote"', '"drain"')))


def test_a_step_that_fails_after_it_leaves_a_plan_that_says_so(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        world.failing["follow"] = "nobody follows"
        world.down.add("a")
        await until(
            lambda: sites["pa2-gw1"].record.plans[-1:] == [("", "")] or len(sites["pa2-gw1"].record.plans) == 2, 60
        )
        (plan,) = sites["pa2-gw1"].tiers.controller.describe()["plans"]
        assert plan["progress"] == "incomplete" and "nobody follows" in plan["reason"]
        assert world.done == ["fence b", "promote b"], "what cannot be undone is not undone"
        await asyncio.sleep(300)
        assert len(sites["pa2-gw1"].record.plans) == 2, "a person is needed"

    run(work, "pa2-gw1")


def test_a_wrong_password_is_a_named_problem_and_never_an_action(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        world.wrong_password.add("a")
        await asyncio.sleep(60)
        assert world.done == []
        (row,) = sites["pa2-gw1"].tiers.controller.describe()["tiers"]
        assert row["members"][0]["problem"].endswith("may not log in") and row["members"][0]["votes"] == {
            "PA2": "abstain"
        }
        assert [notice.key for notice in world.notices] == ["tier/db/problem/a"]

    run(work, "pa2-gw1")


def test_notices_are_repeated_until_acknowledged_or_settled(world: World) -> None:
    def sent(key: str) -> list[float | None]:
        return [notice.ends_at for notice in world.notices if notice.key == key]

    async def work(sites: dict[str, Site]) -> None:
        controller = sites["pa2-gw1"].tiers.controller
        world.down.add("a")
        await asyncio.sleep(3 * REPEAT + 5)
        assert len(sent("tier/db/verdict")) >= 3
        assert controller.acknowledge("tier/db/verdict", "alice") and not controller.acknowledge("nothing", "alice")
        before = len(sent("tier/db/verdict"))
        await asyncio.sleep(5 * REPEAT)
        assert len(sent("tier/db/verdict")) <= before + 1
        world.down.clear()
        await asyncio.sleep(10)
        assert sent("tier/db/verdict")[-1] is not None
        count = len(world.notices)
        await asyncio.sleep(5 * REPEAT)
        assert len(world.notices) == count, "what is settled is said once"

    run(work, "pa2-gw1")


def test_a_failover_is_told_even_when_the_sink_was_down_then_and_the_matter_is_settled(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        world.sink_down = True
        world.down.add("a")
        await asyncio.sleep(10)
        world.down.clear()
        await asyncio.sleep(30)
        world.sink_down = False
        await asyncio.sleep(10)
        plan = [notice.ends_at for notice in world.notices if notice.key.startswith("plan/")]
        assert plan[0] is None and plan[-1] is not None

    run(work, "pa2-gw1")


def test_a_controller_with_another_configuration_refuses_to_lead_and_says_which_key_differs(world: World) -> None:
    async def whole() -> None:
        memory = Memory()
        names = ("pa2-gw1", "pa5-gw1")
        first = Site(platform(*names), names[0], memory).start()
        await asyncio.sleep(3)
        other = platform(*names, tier=TIER.replace("127.0.0.1:3", "127.0.0.1:33"))
        second = Site(other, names[1], memory).start()
        await asyncio.sleep(3)
        expected = "our configuration differs from the one that has led, at tiers.db.members[2].address"
        assert second.tiers.controller.describe()["refusal"] == expected
        await first.kill()
        await asyncio.sleep(60)
        assert not second.leads
        again = Site(other, names[0], memory).start()
        await until(lambda: again.leads or second.leads, 15.0)
        await asyncio.gather(again.tiers.stop(), second.tiers.stop())

    virtually(whole)


def test_a_refusal_of_an_action_is_told_to_who_asked(world: World) -> None:
    config = platform("pa2-gw1", tier=TIER.replace('on_member_down = ["promote"]', ""))

    async def work(sites: dict[str, Site]) -> None:
        with pytest.raises(Refused, match="no rule on_switchover"):
            await sites["pa2-gw1"].tiers.controller.order("db", "failover", "", "alice")
        assert ("alice", "failover of db", "refused") in sites["pa2-gw1"].record.audits

    run(work, "pa2-gw1", config=config)


@pytest.mark.parametrize("number", range(8))
def test_a_controller_killed_between_any_two_steps_is_followed_by_one_that_finishes_or_undoes(
    world: World, number: int
) -> None:
    """The journal of the plan is written seven times or so; the controller dies at each of these writings in turn."""

    async def work(sites: dict[str, Site]) -> None:
        first = leader(sites)
        writings = 0

        def die(puts: object) -> None:
            nonlocal writings
            if any("/plan/" in put.key for put in puts):  # type: ignore[attr-defined]
                writings += 1
                if writings == number + 1:
                    first.store.cut = True
                    asyncio.get_running_loop().create_task(first.kill())
                    raise asyncio.CancelledError

        first.store.before_commit = die
        world.down.add("a")
        await asyncio.sleep(0.8)
        killed_at = clock()
        rest = [site for site in sites.values() if site is not first]
        await until(lambda: world.done[-3:] == PROMOTED or world.done[-2:] == PROMOTED[-2:], 30.0)
        if first.store.cut:
            assert clock() - killed_at < TTL + 5.0
        await asyncio.sleep(30)
        assert world.done.count("promote b") == 1, world.done
        undone = world.done.count("undo fence b")
        assert world.done.count("fence b") == undone + 1, world.done
        assert not any(site.tiers.controller.describe()["running"] for site in rest)

    run(work, "pa2-gw1", "pa5-gw1", "w-gw1")


def test_a_controller_paused_past_its_lease_does_no_late_step(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        first = leader(sites)
        first.store.before_commit = lambda puts: None
        world.hanging.add("promote")  # it stands in the midst of a step while its lease runs out
        world.down.add("a")
        await until(lambda: "fence b" in world.done, 5.0)
        first.store.cut = True
        world.hanging.clear()
        await until(lambda: world.done.count("promote b") == 1, 30.0)
        assert not first.leads
        await asyncio.sleep(30)
        assert world.done.count("promote b") == 1
        assert world.epoch > 1

    run(work, "pa2-gw1", "pa5-gw1", "w-gw1")


def test_a_leader_that_loses_the_lease_amid_a_plan_and_leads_again_takes_its_own_plan_up(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        (site,) = sites.values()
        world.hanging.add("promote")
        world.down.add("a")
        await until(lambda: "fence b" in world.done, 5.0)
        epoch = site.tiers.controller.describe()["epoch"]
        site.store.memory.leases.clear()
        for key in [key for key, (_, lease) in site.store.memory.entries.items() if lease]:
            del site.store.memory.entries[key]
        world.hanging.clear()
        await until(lambda: world.done.count("follow b") == 1, 30.0)
        assert site.tiers.controller.describe()["epoch"] > epoch
        assert world.done.count("promote b") == 1
        await asyncio.sleep(10)
        assert not site.tiers.controller.describe()["running"]

    run(work, "pa2-gw1")


def test_the_same_configuration_in_another_folder_is_the_same(world: World) -> None:
    text = (
        PLATFORM + gateways("pa2-gw1") + TIER.replace('kind = "fake"', 'kind = "fake"\npassword_file = "db.password"')
    )
    here, there = (fingerprint_of(Config.parse(text, folder)) for folder in ("/etc/one", "/etc/other"))
    assert differences(here, there) == []
    other = fingerprint_of(Config.parse(text.replace("db.password", "other.password"), "/etc/one"))
    assert differences(here, other) == ["tiers.db.password_file"]
    assert differences(here, fingerprint_of(platform("pa2-gw1", "pa5-gw1", tier=TIER)))[0].startswith("gateways[1]")


def test_what_another_version_publishes_and_we_do_not_understand_stops_nothing(world: World) -> None:
    async def work(sites: dict[str, Site]) -> None:
        first = leader(sites)
        lease = await first.store.grant(3600)
        keys = [f"/ubisip/p/{kind}/old-gw1" for kind in ("seen", "facts")]
        for value in (b"", b"\xc1", b"\x05", b"\x81\xa1a\x01"):
            await first.store.commit([], [Put(key, value, lease) for key in keys])
            await asyncio.sleep(2)
        world.down.add("a")
        await until(lambda: world.done == PROMOTED, 5.0)

    run(work, "pa2-gw1", "pa5-gw1")
