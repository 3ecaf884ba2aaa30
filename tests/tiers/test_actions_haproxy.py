# SPDX-License-Identifier: Apache-2.0
"""The action ``haproxy`` on real HAProxy processes: who serves is ready, nobody else is; and what may not be done."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tiers.daemons_common import Yard
from tiers.daemons_haproxy import Haproxy
from tiers.situations import Promote, Refuse, carried_out, member, outcome, situation

from ubisip.failover.action import Refusal
from ubisip.failover.actions.haproxy import HaproxyAction
from ubisip.failover.plan import Progress, StepState
from ubisip.health.haproxy import servers_of, talk
from ubisip.health.machine import State


@pytest.fixture
def yard() -> Iterator[Yard]:
    one = Yard()
    yield one
    one.close()


def database(yard: Yard) -> Haproxy:
    return Haproxy(yard, "database", ["db1 127.0.0.1:1", "db2 127.0.0.1:2 disabled", "db3 127.0.0.1:3 disabled"])


def action(*proxies: Haproxy, **more: Any) -> HaproxyAction:
    sockets = [one.socket for one in proxies]
    return HaproxyAction({"sockets": sockets, "backend": proxies[0].backend, "timeout": 0.5, **more})


DEAD = situation(
    member("db1", "127.0.0.1:1", State.DOWN, role="primary"),
    member("db2", "127.0.0.1:2", role="replica"),
    member("db3", "127.0.0.1:3", role="replica"),
    kind="mariadb",
    verdict="dead-primary",
)


async def test_the_backend_follows_the_member_that_a_step_before_has_promoted(yard: Yard) -> None:
    proxies = [database(yard), database(yard)]
    journal = await carried_out(DEAD, {"promote": Promote("db3"), "haproxy": action(*proxies)})
    assert journal.progress is Progress.DONE
    for one in proxies:
        found = await servers_of(one.socket, "database", 1)
        assert {name: it.state for name, it in found.items()} == {"db1": "maint", "db2": "maint", "db3": "ready"}


async def test_sessions_to_the_old_primary_are_shut_down(yard: Yard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as old:
        port = old.getsockname()[1]
        proxy = Haproxy(yard, "database", [f"db1 127.0.0.1:{port}", "db2 127.0.0.1:2 disabled"])
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            behind, _ = old.accept()
            it = situation(member("db1", "x", State.DOWN), member("db2", "x"), kind="mariadb", verdict="dead-primary")
            journal = await carried_out(it, {"promote": Promote("db2"), "haproxy": action(proxy)})
            assert journal.progress is Progress.DONE
            assert await asyncio.to_thread(client.recv, 1) == b"", "the client hears that it has to connect again"
            behind.close()


async def test_taken_twice_it_has_the_effect_of_once(yard: Yard) -> None:
    proxy = database(yard)
    for _ in range(2):
        journal = await carried_out(DEAD, {"promote": Promote("db2"), "haproxy": action(proxy)})
        assert journal.progress is Progress.DONE
    found = await servers_of(proxy.socket, "database", 1)
    assert [it.state for it in found.values()] == ["maint", "ready", "maint"]


async def test_one_server_gets_the_address_of_the_new_primary(yard: Yard) -> None:
    proxy = Haproxy(yard, "database", ["writable 127.0.0.1:1"])
    act = action(proxy, server="writable")
    for chosen, port in (("db3", 3), ("db3", 3), ("db2", 2)):
        journal = await carried_out(DEAD, {"promote": Promote(chosen), "haproxy": act})
        assert journal.progress is Progress.DONE
        one = (await servers_of(proxy.socket, "database", 1))["writable"]
        assert (one.state, one.address, one.port) == ("ready", "127.0.0.1", port)


async def test_who_died_between_two_orders_is_taken_over_whole(yard: Yard) -> None:
    """The old controller got as far as the new address; sessions to the old one may still be there."""
    proxy = Haproxy(yard, "database", ["writable 127.0.0.1:1"])
    await talk(proxy.socket, "set server database/writable state maint", 1)
    await talk(proxy.socket, "set server database/writable addr 127.0.0.1 port 3", 1)
    await carried_out(DEAD, {"promote": Promote("db3"), "haproxy": action(proxy, server="writable")})
    assert (await servers_of(proxy.socket, "database", 1))["writable"].state == "ready"


async def test_an_haproxy_that_is_gone_does_not_hold_back_the_others(yard: Yard) -> None:
    here, gone = database(yard), database(yard)
    gone.child.kill()
    journal = await carried_out(DEAD, {"promote": Promote("db2"), "haproxy": action(here, gone)})
    assert journal.progress is Progress.DONE
    assert gone.socket in journal.steps[1].result["stale"] and gone.socket in journal.steps[1].reason
    assert (await servers_of(here.socket, "database", 1))["db2"].state == "ready"


async def test_an_haproxy_that_hangs_costs_its_time_limit_only(yard: Yard) -> None:
    here, hung = database(yard), yard.directory / "hung.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hung))
        listener.listen()
        act = HaproxyAction({"sockets": [here.socket, str(hung)], "backend": "database", "timeout": 0.3})
        journal = await carried_out(DEAD, {"promote": Promote("db2"), "haproxy": act})
    assert journal.progress is Progress.DONE
    assert journal.steps[1].result["stale"] == {str(hung): "no answer in time"}


async def test_after_a_higher_epoch_a_lower_one_is_refused(yard: Yard) -> None:
    proxies = [database(yard), database(yard)]
    act = action(*proxies)
    await carried_out(DEAD, {"promote": Promote("db2"), "haproxy": act}, epoch=9)
    late = await carried_out(DEAD, {"promote": Promote("db1"), "haproxy": act}, epoch=8)
    assert late.steps[1].state is StepState.REFUSED and "epoch 9" in late.steps[1].reason
    assert (await servers_of(proxies[0].socket, "database", 1))["db2"].state == "ready"


async def test_a_plan_that_fails_before_its_point_of_no_return_puts_everything_back(yard: Yard) -> None:
    proxy = Haproxy(yard, "web", ["web1 127.0.0.1:1 weight 100", "web2 127.0.0.1:2 weight 100"])
    it = situation(member("web1", "x", State.DOWN), member("web2", "x", State.DEGRADED))
    journal = await carried_out(it, {"haproxy": action(proxy), "refuse": Refuse("")})
    assert outcome(journal)[0][1] is StepState.UNDONE
    found = await servers_of(proxy.socket, "web", 1)
    assert {name: (one.state, one.weight) for name, one in found.items()} == {
        "web1": ("ready", 100),
        "web2": ("ready", 100),
    }


async def test_a_pool_serves_with_all_that_can_and_gives_the_weak_less(yard: Yard) -> None:
    proxy = Haproxy(yard, "web", ["web1 127.0.0.1:1 weight 100", "web2 127.0.0.1:2 weight 100", "w3 127.0.0.1:3"])
    act = action(proxy, servers={"web3": "w3"})
    members = (member("web1", "x", State.DOWN), member("web2", "x", State.DEGRADED), member("web3", "x"))
    assert (await carried_out(situation(*members), {"haproxy": act})).progress is Progress.DONE
    found = await servers_of(proxy.socket, "web", 1)
    assert {name: (one.state, one.weight) for name, one in found.items()} == {
        "web1": ("maint", 100),
        "web2": ("ready", 50),
        "w3": ("ready", 1),
    }
    well = situation(*(member(one.target.name, "x") for one in members))
    assert (await carried_out(well, {"haproxy": act})).progress is Progress.DONE
    found = await servers_of(proxy.socket, "web", 1)
    assert {(one.state, one.weight) for one in found.values()} == {("ready", 100), ("ready", 1)}


async def test_drain_lets_sessions_end(yard: Yard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as old:
        port = old.getsockname()[1]
        proxy = Haproxy(yard, "web", [f"web1 127.0.0.1:{port}", "web2 127.0.0.1:2"])
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            behind, _ = old.accept()
            it = situation(member("web1", "x", State.DOWN), member("web2", "x"))
            await carried_out(it, {"haproxy": action(proxy, remove="drain")})
            assert (await servers_of(proxy.socket, "web", 1))["web1"].state == "drain"
            behind.sendall(b"still here")
            assert await asyncio.to_thread(client.recv, 10) == b"still here"
            behind.close()


async def test_first_stays_with_who_serves_unless_failback_is_configured(yard: Yard) -> None:
    proxy = Haproxy(yard, "web", ["web1 127.0.0.1:1", "web2 127.0.0.1:2"])
    sticky, eager = action(proxy, serve="first"), action(proxy, serve="first", failback=True)

    async def ready() -> list[str]:
        found = await servers_of(proxy.socket, "web", 1)
        return [name for name, one in found.items() if one.state == "ready"]

    both = situation(member("web1", "x"), member("web2", "x"))
    await carried_out(situation(member("web1", "x", State.DOWN), member("web2", "x")), {"haproxy": sticky})
    assert await ready() == ["web2"]
    await carried_out(both, {"haproxy": sticky})
    assert await ready() == ["web2"], "who serves stays"
    await carried_out(both, {"haproxy": eager})
    assert await ready() == ["web1"]
    await carried_out(situation(*both.members, wanted="web2", request="failover"), {"haproxy": sticky})
    assert await ready() == ["web2"], "an operator's word counts"
    await carried_out(situation(*both.members, request="failback"), {"haproxy": sticky})
    assert await ready() == ["web1"]


async def test_who_does_not_let_us_look_stays_as_it_is(yard: Yard) -> None:
    proxy = Haproxy(yard, "web", ["web1 127.0.0.1:1", "web2 127.0.0.1:2 disabled", "web3 127.0.0.1:3"])
    secret = [replace(member(name, "x", State.UNKNOWN), problem="a wrong password") for name in ("web2", "web3")]
    it = situation(member("web1", "x"), *secret)
    assert (await carried_out(it, {"haproxy": action(proxy)})).progress is Progress.DONE
    found = await servers_of(proxy.socket, "web", 1)
    assert [one.state for one in found.values()] == ["ready", "maint", "ready"]


def test_nothing_is_done_while_a_member_has_not_been_asked_yet() -> None:
    """A gateway that has just begun to lead knows nothing: it must not take out whom it has not heard yet."""
    act = HaproxyAction({"sockets": ["/nowhere"], "backend": "web"})
    found = act.plan(situation(member("web1", "x"), member("web2", "x", State.UNKNOWN)), ())
    assert found == Refusal(("nothing is known yet of web2",))


async def test_no_member_able_is_refused_and_nothing_changes() -> None:
    act = HaproxyAction({"sockets": ["/nowhere"], "backend": "web"})
    found = act.plan(situation(member("web1", "x", State.DOWN), member("web2", "x", State.HELD)), ())
    assert found == Refusal(("no member of tier can serve",))


async def test_a_primary_that_nobody_knows_is_refused() -> None:
    act = HaproxyAction({"sockets": ["/nowhere"], "backend": "database"})
    assert isinstance(act.plan(DEAD, ()), Refusal)


async def test_a_server_that_the_backend_does_not_have_fails_by_its_name(yard: Yard) -> None:
    proxy = Haproxy(yard, "web", ["web1 127.0.0.1:1"])
    it = situation(member("web1", "x"), member("web7", "x"))
    journal = await carried_out(it, {"haproxy": action(proxy)}, epoch=7)
    assert journal.progress is Progress.UNDONE
    assert "the backend web has no server web7" in journal.reason


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"sockets": [], "backend": "b"},
        {"sockets": ["/s"], "backend": "b; shutdown sessions server b/c"},
        {"sockets": ["/s"], "backend": "b", "servers": {"web1": "w1 state maint"}},
        {"sockets": ["/s"], "backend": "b", "remove": "kill"},
        {"sockets": ["/s"], "backend": "b", "backends": "c"},
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        HaproxyAction(parameters)
