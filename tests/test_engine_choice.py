# SPDX-License-Identifier: Apache-2.0
"""Choosing a destination (DESIGN section 6): policies, weights, sites, capacity, the operator's switch, panic."""

from __future__ import annotations

from collections import Counter

import pytest
from calls import cancel, establish, place
from wire import Wire, carrier, platform, server

from ubisip.platform import DestinationState, Switch

DOWN = DestinationState(usable=False)


def spread(wire: Wire, calls: int = 300, **parts: object) -> Counter[str]:
    """Send new calls that end at once; how many reached each server."""
    count: Counter[str] = Counter()
    for _ in range(calls):
        _, leg = place(wire, **parts)
        holder = wire.holder()
        holder.reply(leg, 486)
        count[f"tel{wire.tels.index(holder) + 1}"] += 1
        for agent in (*wire.tels, wire.sbc):
            agent.clear()
    return count


def near(count: Counter[str], **shares: float) -> bool:
    """Every server's part of the calls is within six points of what it should be."""
    total = sum(count.values())
    return set(count) == set(shares) and all(abs(count[name] / total - share) < 0.06 for name, share in shares.items())


@pytest.mark.parametrize("policy", ["hash", "weighted", "round-robin", "least-calls"])
def test_calls_are_spread_evenly(policy: str) -> None:
    assert near(spread(Wire(platform(servers=3, policy=policy))), tel1=1 / 3, tel2=1 / 3, tel3=1 / 3)


@pytest.mark.parametrize("policy", ["hash", "weighted"])
def test_weights_give_the_share(policy: str) -> None:
    servers = [server(0, weight=200), server(1, weight=100), server(2, weight=100)]
    assert near(spread(Wire(platform(servers, policy=policy)), 600), tel1=0.5, tel2=0.25, tel3=0.25)


def test_weight_zero_gets_nothing_while_others_are_there() -> None:
    wire = Wire(platform([server(0, weight=0), server(1)]))
    assert spread(wire, 60) == {"tel2": 60}


def test_a_ramp_lowers_the_share() -> None:
    wire = Wire(platform(servers=2), states={"tel1": DestinationState(ramp=0.25)})
    assert near(spread(wire, 500), tel1=0.2, tel2=0.8)


def test_when_a_server_leaves_only_its_own_share_moves_evenly() -> None:
    """Weighted rendezvous hashing on Call-ID."""
    whole, reduced = Wire(platform(servers=6)), Wire(platform(servers=6), states={"tel3": DOWN})
    moved: Counter[int] = Counter()
    for _ in range(400):
        invite, _ = place(whole)
        reduced.sbc.send(invite)
        before = whole.tels.index(whole.holder(call_id=invite.call_id))
        after = reduced.tels.index(reduced.holder(call_id=invite.call_id))
        assert after == before if before != 2 else after != 2
        moved[after] += before == 2
    assert set(+moved) == {0, 1, 3, 4, 5}


def test_the_same_call_goes_to_the_same_server_and_calls_differ() -> None:
    one, two = Wire(platform(servers=6)), Wire(platform(servers=6))
    assert spread(one, 60) == spread(two, 60)


def test_round_robin_takes_turns() -> None:
    wire = Wire(platform(servers=3, policy="round-robin"))
    assert spread(wire, 30) == {"tel1": 10, "tel2": 10, "tel3": 10}


def test_least_calls_goes_where_the_fewest_are() -> None:
    wire = Wire(platform(servers=3, policy="least-calls"))
    dialogs = [establish(wire) for _ in range(9)]
    assert Counter(dialog.callee.address for dialog in dialogs) == {tel.address: 3 for tel in wire.tels}
    freed = [dialog for dialog in dialogs if dialog.callee is wire.tel(1)]
    for dialog in freed:
        wire.sbc.send(dialog.by_caller("BYE"))
        wire.tel(1).reply(wire.tel(1).requests("BYE")[-1], 200)
    wire.tel(1).clear()
    for _ in range(3):
        assert establish(wire).callee is wire.tel(1)


def two_sites(**routing: object) -> str:
    return platform([server(0), server(1), server(2, "PA5"), server(3, "PA5")], **routing)


@pytest.mark.parametrize("policy", ["hash", "weighted", "round-robin", "least-calls"])
def test_own_site_first(policy: str) -> None:
    assert set(spread(Wire(two_sites(policy=policy)), 40)) == {"tel1", "tel2"}


def test_the_other_site_when_the_own_one_is_down() -> None:
    assert set(spread(Wire(two_sites(), states={"tel1": DOWN, "tel2": DOWN}), 40)) == {"tel3", "tel4"}


def test_a_call_that_fails_at_the_own_site_goes_to_the_other() -> None:
    wire = Wire(two_sites())
    place(wire)
    tried = []
    for _ in range(4):
        (holder,) = [tel for tel in wire.tels if tel.requests("INVITE") and tel not in tried]
        holder.reply(holder.got("INVITE"), 503)
        tried.append(holder)
    assert {wire.tels.index(tel) for tel in tried[:2]} == {0, 1}
    assert {wire.tels.index(tel) for tel in tried[2:]} == {2, 3}
    wire.run(0.1)
    assert wire.sbc.final().status == 500


@pytest.mark.parametrize("switch", [Switch.DRAIN, Switch.MAINTENANCE])
def test_the_operators_switch_keeps_new_calls_away(switch: Switch) -> None:
    wire = Wire(platform(servers=2), states={"tel1": DestinationState(switch=switch)})
    assert spread(wire, 40) == {"tel2": 40}


@pytest.mark.parametrize("switch", [Switch.DRAIN, Switch.MAINTENANCE])
def test_the_switch_cuts_no_call(switch: Switch) -> None:
    wire = Wire()
    call = establish(wire)
    wire.states(tel1=DestinationState(switch=switch))
    wire.sbc.send(call.by_caller("INVITE"))
    wire.tel().reply(wire.tel().got("INVITE"), 200)
    assert wire.sbc.final().status == 200
    wire.tel().send(call.by_callee("BYE"))
    assert wire.sbc.got("BYE")


def test_a_call_in_setup_survives_a_swap_of_everything() -> None:
    wire = Wire(platform(servers=2))
    _, leg = place(wire)
    holder = wire.holder()
    holder.reply(leg, 180)
    wire.swap(text=platform([server(5)]), states={})
    holder.reply(leg, 183)
    holder.reply(leg, 200)
    assert wire.sbc.statuses() == [180, 183, 200]


def test_a_call_whose_server_vanishes_before_it_answers_is_not_lost() -> None:
    wire = Wire(platform(servers=2))
    place(wire)
    wire.swap(text=platform([server(5)]), states={})
    wire.run(1.5)
    wire.tel(5).reply(wire.tel(5).requests("INVITE")[0], 200)
    assert wire.sbc.final().status == 200


def test_if_every_server_looks_down_all_are_tried() -> None:
    """Panic: suspect ourselves."""
    wire = Wire(platform(servers=3), states={f"tel{n}": DOWN for n in (1, 2, 3)})
    assert set(spread(wire, 60)) == {"tel1", "tel2", "tel3"}


def test_panic_does_not_overrule_the_operator() -> None:
    states = {"tel1": DOWN, "tel2": DestinationState(switch=Switch.MAINTENANCE)}
    assert spread(Wire(platform(servers=2), states=states), 30) == {"tel1": 30}


def test_with_every_server_in_maintenance_there_is_no_way() -> None:
    wire = Wire(states={"tel1": DestinationState(switch=Switch.MAINTENANCE)})
    wire.sbc.send(wire.request("INVITE"))
    wire.run(0.1)
    assert wire.sbc.final().status in (480, 500, 503)
    assert wire.tel().inbox == []


@pytest.mark.parametrize("policy", ["hash", "weighted", "round-robin", "least-calls"])
def test_max_calls_is_never_passed(policy: str) -> None:
    wire = Wire(platform([server(0, max_calls=3), server(1, max_calls=2)], policy=policy))
    dialogs = [establish(wire) for _ in range(5)]
    assert Counter(dialog.callee.address for dialog in dialogs) == {wire.tel(0).address: 3, wire.tel(1).address: 2}
    wire.sbc.send(wire.request("INVITE"))
    wire.run(0.1)
    assert wire.sbc.final().status == 503
    assert wire.sbc.final().get("Retry-After")
    assert [tel.inbox for tel in wire.tels] == [[], []]


def test_a_call_that_ends_makes_room() -> None:
    wire = Wire(platform([server(0, max_calls=1)]))
    for end in ("caller", "callee", "failure", "cancel"):
        if end == "failure":
            _, leg = place(wire)
            wire.tel().reply(leg, 486)
        elif end == "cancel":
            invite, leg = place(wire)
            wire.tel().reply(leg, 180)
            wire.sbc.send(cancel(invite))
            wire.tel().reply(wire.tel().got("CANCEL"), 200)
            wire.tel().reply(leg, 487)
        else:
            call = establish(wire)
            ender, other = (wire.sbc, wire.tel()) if end == "caller" else (wire.tel(), wire.sbc)
            ender.send(call.by_caller("BYE") if end == "caller" else call.by_callee("BYE"))
            other.reply(other.got("BYE"), 200)
        wire.run(1)
        wire.sbc.clear()
        wire.tel().clear()
    assert establish(wire).callee is wire.tel()


def test_max_calls_counts_calls_in_setup() -> None:
    wire = Wire(platform([server(0, max_calls=1), server(1)]))
    for _ in range(20):
        place(wire)
    assert len(wire.tel(0).requests("INVITE")) == 1
    assert len(wire.tel(1).requests("INVITE")) == 19


def test_max_calls_is_no_limit_within_a_dialog() -> None:
    wire = Wire(platform([server(0, max_calls=1)]))
    call = establish(wire)
    wire.sbc.send(call.by_caller("INVITE"))
    assert wire.tel().got("INVITE").call_id == call.invite.call_id


def test_max_cps_is_never_passed() -> None:
    wire = Wire(platform([server(0, max_cps=10), server(1)]))
    for _ in range(100):
        invite, leg = place(wire)
        wire.holder(call_id=invite.call_id).reply(leg, 180)
        wire.run(0.02)
    first, second = (len({packet.call_id for packet in tel.requests("INVITE")}) for tel in wire.tels)
    assert 15 <= first <= 31  # two seconds at ten a second, and at most one second's worth at the start
    assert second == 100 - first


def test_when_max_cps_is_reached_everywhere_calls_get_503_with_retry_after() -> None:
    wire = Wire(platform([server(0, max_cps=5)]))
    for _ in range(40):
        wire.sbc.send(wire.request("INVITE"))
    finals = [packet for packet in wire.sbc.responses() if packet.status >= 200]
    assert finals
    assert {packet.status for packet in finals} == {503}
    assert all(packet.get("Retry-After") for packet in finals)
    assert len(wire.tel().requests("INVITE")) == 40 - len(finals) <= 11


@pytest.mark.parametrize("number", ["15", "17", "18", "112", "114", "115", "119", "191", "196", "197"])
def test_an_emergency_call_passes_every_limit(number: str) -> None:
    wire = Wire(platform([server(0, max_calls=1, max_cps=1)]))
    establish(wire)
    wire.sbc.send(wire.request("INVITE"))
    wire.run(0.01)
    assert wire.sbc.final().status == 503
    wire.sbc.send(wire.request("INVITE", f"sip:{number}@127.0.0.1:5060"))
    assert wire.tel().got("INVITE").uri == f"sip:{number}@127.0.3.1:5060"


def test_resource_priority_is_an_emergency_too() -> None:
    wire = Wire(platform([server(0, max_calls=1)]))
    establish(wire)
    wire.sbc.send(wire.request("INVITE", headers=[("Resource-Priority", "esnet.0")]))
    assert len(wire.tel().requests("INVITE")) == 1


@pytest.mark.parametrize("number", ["1", "151", "0112", "0015", "1122"])
def test_a_number_that_only_looks_like_one_is_none(number: str) -> None:
    wire = Wire(platform([server(0, max_calls=1)]))
    establish(wire)
    wire.sbc.send(wire.request("INVITE", f"sip:{number}@127.0.0.1:5060"))
    assert wire.tel().inbox == []


def test_carriers_are_chosen_by_site_health_and_switch() -> None:
    carriers = [carrier("near1", ("127.0.1.1", 5090)), carrier("near2", ("127.0.1.2", 5090)),
                carrier("far", ("127.0.1.3", 5090), "PA5")]
    agents = [("127.0.1.1", 5090), ("127.0.1.2", 5090), ("127.0.1.3", 5090)]
    wire = Wire(platform(carriers=carriers))
    sbcs = [wire.agent(*address) for address in agents]

    def reached() -> set[int]:
        for sbc in sbcs:
            sbc.clear()
        for _ in range(20):
            wire.tel().send(wire.request("INVITE", source=wire.tel().address))
        return {index for index, sbc in enumerate(sbcs) if sbc.requests("INVITE")}

    assert reached() == {0, 1}
    wire.states(near1=DOWN)
    assert reached() == {1}
    wire.states(near1=DOWN, near2=DestinationState(switch=Switch.DRAIN))
    assert reached() == {2}
