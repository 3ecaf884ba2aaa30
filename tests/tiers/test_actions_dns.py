# SPDX-License-Identifier: Apache-2.0
"""The action ``dns-rfc2136`` on BIND with a secondary: refusals, a secondary that stays behind, never an empty set."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dns.query
import dns.rcode
import dns.tsigkeyring
import dns.update
import pytest
from processes import wait_until
from tiers.daemons_common import Yard, free_port
from tiers.daemons_dns import KEY, SECRET, ZONE, Named, key_file, primary, primary_zone, secondary
from tiers.situations import Promote, Refuse, carried_out, member, outcome, situation

from ubisip.failover.action import ActionError, Context, Refusal
from ubisip.failover.actions.dns_rfc2136 import Rfc2136Action
from ubisip.failover.plan import Progress, StepState
from ubisip.health.machine import State

NAME = f"www.{ZONE}"
ONE, TWO = "192.0.2.1", "198.51.100.2"


@dataclass
class Servers:
    """The two name servers of the zone, and the folder of the first."""

    yard: Yard
    first: Named
    second: Named

    def action(self, **more: Any) -> Rfc2136Action:
        return Rfc2136Action(self.parameters(**more))

    def parameters(self, **more: Any) -> dict[str, Any]:
        return {
            "server": self.first.address,
            "zone": ZONE,
            "names": [NAME],
            "name_servers": [self.second.address],
            "key_name": KEY,
            "key_file": key_file(self.yard),
            "values": {"web1": [ONE], "web2": [TWO]},
            "serve": "first",
            "timeout": 1.0,
            **more,
        }

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """The first takes no updates meanwhile."""
        self.first.replace_zone(primary_zone(self.first.directory, False))
        try:
            yield
        finally:
            self.first.replace_zone(primary_zone(self.first.directory, True))


@pytest.fixture(scope="module")
def running() -> Iterator[Servers]:
    yard = Yard("bind")
    try:
        port = free_port()
        first = primary(yard, port)
        yield Servers(yard, first, secondary(yard, first.port, port))
    finally:
        yard.close()


@pytest.fixture
def servers(running: Servers) -> Servers:
    """Both, with the records as they were at the start."""
    change(running.first, NAME, [ONE], forget=True)
    wait_until(lambda: running.second.values(NAME) == [ONE], "the secondary to follow")
    return running


LOST = situation(member("web1", f"{ONE}:80", State.DOWN), member("web2", f"{TWO}:80"))
BOTH = situation(member("web1", f"{ONE}:80"), member("web2", f"{TWO}:80"))


async def test_the_name_goes_to_the_other_provider_on_every_name_server(servers: Servers) -> None:
    before = servers.first.serial()
    journal = await carried_out(LOST, {"dns": servers.action()})
    assert journal.progress is Progress.DONE, journal.reason
    for one in (servers.first, servers.second):
        assert one.values(NAME) == [TWO]
        assert one.serial() > before
    assert servers.first.values(f"_ubisip.{NAME}", "TXT") == ['"ubisip epoch=7 key=plan-1/0"']


async def test_it_stays_there_until_failback_is_configured_or_asked_for(servers: Servers) -> None:
    await carried_out(LOST, {"dns": servers.action()})
    serial = servers.first.serial()
    await carried_out(BOTH, {"dns": servers.action()})
    assert servers.first.values(NAME) == [TWO]
    assert servers.first.serial() == serial, "nothing to change is no update"
    await carried_out(BOTH, {"dns": servers.action(failback=True)})
    assert servers.first.values(NAME) == [ONE]


async def test_all_that_can_serve_stand_in_the_set(servers: Servers) -> None:
    act = servers.action(serve="all")
    await carried_out(BOTH, {"dns": act})
    assert servers.second.values(NAME) == sorted([ONE, TWO])
    await carried_out(LOST, {"dns": act})
    assert servers.second.values(NAME) == [TWO]


async def test_the_name_of_the_database_follows_the_promotion(servers: Servers) -> None:
    name = f"db.{ZONE}"
    it = situation(
        member("db1", "192.0.2.31:3306", State.DOWN, role="primary"),
        member("db2", "198.51.100.32:3306", role="replica"),
        kind="mariadb",
        verdict="dead-primary",
    )
    journal = await carried_out(it, {"promote": Promote("db2"), "dns": servers.action(names=[name], serve="auto")})
    assert journal.progress is Progress.DONE
    assert servers.first.values(name) == ["198.51.100.32"]


async def test_a_refused_update_is_tried_again_until_it_is_taken(servers: Servers) -> None:
    with servers.refusing():
        running = asyncio.create_task(carried_out(LOST, {"dns": servers.action()}))
        await asyncio.sleep(1)
        assert not running.done()
        assert servers.first.values(NAME) == [ONE]
    journal = await running
    assert journal.progress is Progress.DONE
    assert servers.second.values(NAME) == [TWO]


async def test_an_update_that_stays_refused_is_reported_and_nothing_is_changed(servers: Servers) -> None:
    act = servers.action()
    found = act.plan(LOST, ())
    assert not isinstance(found, Refusal)
    context = Context("plan-1", "plan-1/0", 7, LOST)
    with servers.refusing(), pytest.raises(ActionError, match="REFUSED") as told:
        await act.apply(found[0], context)
    assert told.value.retry
    assert servers.first.values(NAME) == [ONE]


async def test_a_secondary_that_stays_behind_is_named(servers: Servers) -> None:
    servers.second.child.kill()
    act = servers.action()
    found = act.plan(LOST, ())
    assert not isinstance(found, Refusal)
    context = Context("plan-1", "plan-1/0", 7, LOST)
    assert (await act.apply(found[0], context))["changed"]
    check = await act.verify(found[0], context)
    assert not check.ok and servers.second.address in check.reason
    assert servers.first.values(NAME) == [TWO], "the first has it all the same"
    servers.second.start()
    check = await act.verify(found[0], context)
    assert f"{servers.second.address}: serial" in check.reason, "it answers again, with what it had"
    servers.second.rndc("refresh", ZONE)
    await _until_ok(act, found[0], context)


async def _until_ok(act: Rfc2136Action, step: Any, context: Context) -> None:
    async with asyncio.timeout(20):
        while not (await act.verify(step, context)).ok:
            await asyncio.sleep(0.1)


async def test_who_changes_the_records_meanwhile_is_not_overwritten(servers: Servers) -> None:
    """The prerequisite lists the whole set: an update made of an old reading does not hold."""
    act = servers.action()
    found = act.plan(LOST, ())
    assert not isinstance(found, Refusal)
    context = Context("plan-1", "plan-1/0", 7, LOST)
    change(servers.first, NAME, ["203.0.113.9"])
    with pytest.raises(ActionError, match="meanwhile") as told:
        await act._replace(found[0], context, [ONE], [TWO])
    assert told.value.retry
    assert servers.first.values(NAME) == ["203.0.113.9"]
    assert (await act.apply(found[0], context))["previous"] == ["203.0.113.9"], "read anew, it can be done"


async def test_after_a_higher_epoch_a_lower_one_is_refused(servers: Servers) -> None:
    await carried_out(LOST, {"dns": servers.action()}, epoch=9)
    late = await carried_out(BOTH, {"dns": servers.action(failback=True)}, epoch=8)
    assert late.steps[0].state is StepState.REFUSED and "epoch 9" in late.steps[0].reason
    assert servers.first.values(NAME) == [TWO]


async def test_what_is_undone_is_what_was_there(servers: Servers) -> None:
    journal = await carried_out(LOST, {"dns": servers.action(), "refuse": Refuse("")})
    assert outcome(journal)[0][1] is StepState.UNDONE
    assert servers.first.values(NAME) == [ONE]


async def test_a_wrong_key_is_told_and_not_tried_again(servers: Servers) -> None:
    wrong = servers.yard.write("wrong.key", "bm90IHRoZSBzZWNyZXQ=", 0o600)
    act = servers.action(key_file=str(wrong))
    found = act.plan(LOST, ())
    assert not isinstance(found, Refusal)
    with pytest.raises(ActionError, match="key") as told:
        await act.apply(found[0], Context("plan-1", "plan-1/0", 7, LOST))
    assert not told.value.retry


def test_nobody_able_is_refused_before_anything_is_asked(tmp_path: Any) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    act = Rfc2136Action({"server": "127.0.0.1", "zone": ZONE, "names": [NAME], "key_name": KEY, "key_file": str(key)})
    none = situation(member("web1", ONE, State.DOWN), member("web2", TWO, State.DOWN))
    assert act.plan(none, ()) == Refusal(("no member of tier can serve",))
    bare = situation(member("web1", "no address"), member("web2", "neither"))
    assert act.plan(bare, ()) == Refusal(("no values of type A are known for web1, web2",))


@pytest.mark.parametrize(
    "more",
    [{"names": ["www.other.test"]}, {"names": []}, {"type": "NONSENSE"}, {"values": {"web1": ["no address"]}}],
)
def test_wrong_parameters_are_named(more: dict[str, Any], tmp_path: Any) -> None:
    key = tmp_path / "key"
    key.write_text(SECRET)
    good = {"server": "127.0.0.1", "zone": ZONE, "names": [NAME], "key_name": KEY, "key_file": str(key)}
    Rfc2136Action(good)
    with pytest.raises(ValueError, match=r"names|type"):
        Rfc2136Action({**good, **more})


def change(server: Named, name: str, values: list[str], forget: bool = False) -> None:
    """Somebody else's update; *forget*: the epoch too."""
    keyring = dns.tsigkeyring.from_text({KEY: SECRET})
    update = dns.update.UpdateMessage(ZONE, keyring=keyring, keyalgorithm="hmac-sha256")
    host = name.removesuffix(f".{ZONE}")
    update.replace(host, 30, "A", *values)
    if forget:
        update.delete(f"_ubisip.{host}")
    assert dns.query.tcp(update, "127.0.0.1", 2, server.port).rcode() is dns.rcode.NOERROR
