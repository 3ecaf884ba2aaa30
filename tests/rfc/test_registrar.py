# SPDX-License-Identifier: Apache-2.0
"""RFC 3261 section 10.3, RFC 3608: the registrar. REG-01 to REG-18.

SVR-01 to SVR-03: no Service-Route is given; that of others in a REGISTER that is passed on is left alone.
"""

from __future__ import annotations

import email.utils

import pytest
from agents import DOMAIN, Phone, agents, bindings, counter, expires, journal, phone, registrar
from plain_sip import Packet, parameter
from wire import Wire, server


def ok(packet: Packet | None) -> Packet:
    assert packet is not None and packet.status == 200, packet
    return packet


def refused(packet: Packet | None, status: int, reason: str = "") -> Packet:
    assert packet is not None and packet.status == status and reason in packet.reason, packet
    return packet


def uris(values: list[str]) -> set[str]:
    return {value.partition(">")[0].lstrip("<") for value in values}


# --- what is bound

def test_reg_01_the_200_lists_every_binding() -> None:
    wire = registrar()
    phone(wire)
    second = Phone(wire, address=("127.0.9.2", 5062))
    assert uris(ok(second.register()).values("Contact")) == {"sip:alice@127.0.9.1:5062", "sip:alice@127.0.9.2:5062"}
    assert uris(second.fetch()) == {"sip:alice@127.0.9.1:5062", "sip:alice@127.0.9.2:5062"}
    assert (wire.engine.statistics()["bindings"], wire.engine.statistics()["agents"]) == (2, 1)


def test_reg_01_another_user_is_another_matter() -> None:
    wire = registrar()
    phone(wire)
    assert uris(phone(wire, "bob", 2).fetch()) == {"sip:bob@127.0.9.2:5062"}


def test_reg_02_each_with_what_is_left_of_its_time() -> None:
    wire = registrar()
    alice = phone(wire)
    wire.run(100)
    assert [parameter(value, "expires") for value in alice.fetch()] == ["3500"]


@pytest.mark.parametrize("given", ["60", None, "1", "x"])
def test_reg_03_star_wants_expires_0(given: str | None) -> None:
    wire = registrar()
    alice = phone(wire)
    refused(alice.again([("Expires", given)] if given else [], contacts=["*"]), 400)
    assert len(alice.fetch()) == 1


@pytest.mark.parametrize("contacts", [["*", "<sip:a@127.0.9.1>"], ["<sip:a@127.0.9.1>", "*"], ["*", "*"], ["<*>"]])
def test_reg_03_star_stands_alone(contacts: list[str]) -> None:
    wire = registrar()
    alice = phone(wire)
    refused(alice.again([("Expires", "0")], contacts=contacts), 400)
    assert len(alice.fetch()) == 1


def test_reg_04_star_removes_all() -> None:
    wire = registrar()
    alice = phone(wire)
    phone(wire, number=2)
    assert ok(alice.again([("Expires", "0")], contacts=["*"])).values("Contact") == []
    assert (alice.fetch(), bindings(wire), counter(wire, "unregistered")) == ([], [], 2)


@pytest.mark.parametrize(("contact", "header", "granted"), [
    ("<sip:alice@127.0.9.1:5062>;expires=120", "600", 120),
    ("<sip:alice@127.0.9.1:5062>", "600", 600),
    ("<sip:alice@127.0.9.1:5062>", None, 3600),
    ("sip:alice@127.0.9.1:5062;expires=120", "600", 120),
    ("<sip:alice@127.0.9.1:5062;expires=120>", "600", 600),
    ("<sip:alice@127.0.9.1:5062>;EXPIRES=120", None, 120),
    ("<sip:alice@127.0.9.1:5062>;expires=nonsense", None, 3600),
    ("<sip:alice@127.0.9.1:5062>", "nonsense", 3600),
    ("<sip:alice@127.0.9.1:5062>;expires=4294967296", None, 7200),
    ("<sip:alice@127.0.9.1:5062>;expires=99999999999999999999999", None, 7200),
    ("<sip:alice@127.0.9.1:5062>;expires=\"120\"", None, 3600),
    ("\"Alice, the \\\"boss\\\"\" <sip:alice@127.0.9.1:5062>;q=0.7;expires=300", None, 300),
])
def test_reg_05_the_parameter_then_the_header_then_the_default(contact: str, header: str | None, granted: int) -> None:
    alice = Phone(registrar(), contact=contact)
    assert expires(ok(alice.register([("Expires", header)] if header else []))) == [granted]


def test_reg_06_too_short_is_423() -> None:
    alice = Phone(registrar())
    assert refused(alice.register([("Expires", "1")]), 423).get("Min-Expires") == "60"
    assert alice.fetch() == []


def test_reg_06_an_hour_is_never_too_short() -> None:
    alice = Phone(registrar(agents(min_expires=7200, max_expires=7200, default_expires=7200)))
    assert refused(alice.register([("Expires", "3599")]), 423).get("Min-Expires") == "3600"
    assert expires(ok(alice.again([("Expires", "3600")]))) == [3600]


def test_reg_06_zero_is_not_too_short() -> None:
    alice = phone(registrar())
    assert ok(alice.unregister()).values("Contact") == []


@pytest.mark.parametrize("star", [False, True])
def test_reg_07_an_older_register_of_the_same_call_changes_nothing(star: bool) -> None:
    wire = registrar()
    alice = phone(wire)
    headers = [("Expires", "0")]
    answer = alice.again(headers, cseq=1, **({"contacts": ["*"]} if star else {}))
    refused(answer, 500)
    assert len(alice.fetch()) == 1


def test_reg_07_the_same_number_changes_nothing() -> None:
    wire = registrar()
    alice = phone(wire)
    alice.again([("Expires", "120")], cseq=alice.cseq)
    assert [parameter(value, "expires") for value in alice.fetch()] == ["3600"]


def test_reg_07_another_call_may_have_any_number() -> None:
    wire = registrar()
    alice = phone(wire)
    assert expires(ok(alice.again([("Expires", "120")], cseq=1, call_id="another"))) == [120]


def test_reg_07_a_long_call_id_is_the_same_call() -> None:
    wire = registrar()
    alice = phone(wire, call_id="x" * 400)
    refused(alice.again([("Expires", "0")], cseq=1), 500)
    assert len(alice.fetch()) == 1


@pytest.mark.parametrize("bad", [
    "<sip:alice@127.0.9.1", "nonsense", "<tel:+33155>", "<mailto:a@b>", "<sip:>", "<sip:@>", "<sip:a@[::1>",
    "<sip:" + "a" * 600 + "@h>", "<sip:a@h>;+sip.instance=urn", "<sip:a@h>;+sip.instance=\"a\\\"b\"",
    "<sip:a@h>;+sip.instance=\"" + "a" * 200 + "\"", "<sip:a@h>;;", "<sip:a@h>;q=\"", "",
])
def test_reg_08_all_contacts_or_none(bad: str) -> None:
    wire = registrar()
    alice = phone(wire)
    before = bindings(wire)
    refused(alice.again(contacts=["<sip:good@127.0.9.9>", bad]), 400)
    assert bindings(wire) == before


def test_reg_08_none_when_one_is_too_short() -> None:
    alice = Phone(registrar())
    refused(alice.register(contacts=["<sip:a@127.0.9.1>", "<sip:b@127.0.9.1>;expires=2"]), 423)
    assert alice.fetch() == []


def test_reg_08_none_when_one_comes_too_late() -> None:
    wire = registrar()
    alice = phone(wire)
    refused(alice.again(contacts=["<sip:new@127.0.9.1>", f"<{alice.uri}>"], cseq=1), 500)
    assert uris(alice.fetch()) == {alice.uri}


def test_reg_08_one_call_many_contacts() -> None:
    alice = Phone(registrar())
    many = [f"<sip:a{number}@127.0.9.1>;expires={100 + number}" for number in range(10)]
    answer = ok(alice.register(contacts=[", ".join(many[:5]), *many[5:]]))
    assert sorted(expires(answer)) == [100 + number for number in range(10)]


def test_reg_09_the_last_of_several_wins() -> None:
    wire = registrar()
    alice = phone(wire)
    first, second = alice.authorized([("Expires", "600")]), alice.authorized([("Expires", "120")])
    for request in (first, second):
        wire.transmit(alice.address, bytes(request))
    wire.settle()
    assert alice.agent.statuses() == [200, 200]
    assert [parameter(value, "expires") for value in alice.fetch()] == ["120"]


def test_reg_09_the_later_does_not_lose_to_the_earlier_that_comes_last() -> None:
    wire = registrar()
    alice = phone(wire)
    first, second = alice.authorized([("Expires", "600")]), alice.authorized([("Expires", "120")])
    for request in (second, first):
        alice.agent.send(request)
    assert [parameter(value, "expires") for value in Phone.fetch(alice)] == ["120"]


# --- whose it is

@pytest.mark.parametrize("to", ["<sip:alice@other.example>", "<sip:ubisip.test>", "<tel:+33155>", "<sip:@ubisip.test>"])
def test_reg_10_an_address_of_record_of_nobody_here_is_404(to: str) -> None:
    alice = Phone(registrar())
    answer = alice.register(to=to)
    assert answer is None or answer.status in (400, 404)
    assert bindings(alice.wire) == []


def test_reg_10_the_gateways_own_address_stands_for_the_domain() -> None:
    wire = registrar()
    alice = Phone(wire)
    ok(alice.register(uri="sip:127.0.0.1:5060", to="<sip:alice@127.0.0.1:5060>"))
    assert [row[0] for row in bindings(wire)] == [f"alice@{DOMAIN}"]


def test_reg_10_a_domain_of_nobody_here_in_the_request_uri_is_no_registration() -> None:
    wire = registrar()
    alice = Phone(wire)
    alice.agent.send(alice.request(uri="sip:other.example"))
    assert alice.agent.statuses() == [403]


@pytest.mark.parametrize(("to", "aor"), [
    ("<sip:%62ob@ubisip.test;user=phone>", "bob"), ("<sip:bob@UBISIP.Test>", "bob"), ("<sip:bob@ubisip.test:5060>",
    "bob"),
    ("<sips:bob@ubisip.test>", "bob"), ("sip:bob@ubisip.test", "bob"), ("\"Bob\" <sip:bob:pw@ubisip.test>;tag=1",
    "bob"),
    ("<sip:%6Cisa@ubisip.test>", "lisa"), ("<sip:%6cisa@ubisip.test>", "lisa"), ("<sip:%6Cis%61@ubisip.test>", "lisa"),
])
def test_reg_11_the_address_of_record_is_canonical(to: str, aor: str) -> None:
    wire = registrar(users=("bob", "lisa"))
    ok(Phone(wire, aor).register(to=to))
    assert [row[0] for row in bindings(wire)] == [f"{aor}@{DOMAIN}"]


def test_reg_11_case_of_the_user_matters() -> None:
    wire = registrar(users=("bob", "Bob"))
    ok(Phone(wire, "Bob").register())
    assert Phone(wire, "bob", ("127.0.9.2", 5062)).register().values("Contact") != []
    assert {row[0] for row in bindings(wire)} == {f"Bob@{DOMAIN}", f"bob@{DOMAIN}"}


def test_reg_12_record_route_is_ignored() -> None:
    alice = Phone(registrar())
    assert ok(alice.register([("Record-Route", "<sip:proxy.example;lr>")])).lines("Record-Route") == []


def test_reg_14_bindings_of_others_are_403() -> None:
    wire = registrar()
    bob = phone(wire, "bob", 2)
    mallory = Phone(wire, "bob", ("127.0.9.3", 5062), username="alice")
    refused(mallory.register(), 403)
    refused(mallory.again([("Expires", "0")], contacts=["*"]), 403)
    assert uris(bob.fetch()) == {bob.uri}


def test_reg_14_the_whole_address_of_record_is_a_user_name_too() -> None:
    wire = registrar(users=(f"alice@{DOMAIN}",))
    ok(Phone(wire, username=f"alice@{DOMAIN}").register())


def test_reg_15_date() -> None:
    wire = registrar()
    at = email.utils.parsedate_to_datetime(ok(Phone(wire).register()).get("Date"))
    assert at.timestamp() == int(wire.now + 1.79e9)


@pytest.mark.parametrize(("require", "unsupported"), [
    ("nosuch", "nosuch"), ("path, nosuch, outbound,gruu", "nosuch, gruu"), ("nosuch\r\n ,more", "nosuch, more"),
])
def test_reg_16_an_unknown_extension_is_420(require: str, unsupported: str) -> None:
    assert refused(Phone(registrar()).register([("Require", require)]), 420).get("Unsupported") == unsupported


@pytest.mark.parametrize("require", ["x" * 3000, ",".join(f"tag{n}" for n in range(900)), "a\0b"])
def test_reg_16_however_long_or_odd(require: str) -> None:
    answer = refused(Phone(registrar()).register([("Require", require)]), 420)
    assert answer.get("Content-Length") == "0" and b"\0" not in answer.data


def test_reg_16_path_and_outbound_are_known() -> None:
    ok(Phone(registrar()).register([("Require", "path, outbound")]))


@pytest.mark.parametrize("other", [
    "<sip:alice@HOST.example:5062;transport=udp;ob>", "<sip:alice@host.example:5062;ob;transport=UDP>",
    "<sip:%61lice@host.example:5062;transport=udp;ob>", "\"A\" <sip:alice@host.example:5062;ob;transport=udp>;q=0.5",
    "<sip:%61l%69ce@host.example:5062;%6fb;transport=udp>",
])
def test_reg_17_contacts_are_compared_as_uris(other: str) -> None:
    alice = Phone(registrar(), contact="<sip:alice@host.example:5062;transport=udp;ob>")
    ok(alice.register())
    assert len(ok(alice.again(contacts=[other])).values("Contact")) == 1


@pytest.mark.parametrize("other", [
    "<sip:Alice@host.example:5062>", "<sip:alice@host.example>", "<sips:alice@host.example:5062>",
    "<sip:alice@host.example:5062;transport=tcp>", "<sip:host.example:5062>",
])
def test_reg_17_and_others_are_others(other: str) -> None:
    alice = Phone(registrar(), contact="<sip:alice@host.example:5062>")
    ok(alice.register())
    assert len(ok(alice.again(contacts=[other])).values("Contact")) == 2


def test_reg_18_a_binding_expires() -> None:
    wire = registrar(agents(min_expires=1))
    alice = Phone(wire)
    ok(alice.register([("Expires", "2")]))
    journal(wire)
    wire.run(3)
    assert bindings(wire) == [] and counter(wire, "expired") == 1
    assert journal(wire) == [[0, f"alice@{DOMAIN}", alice.uri, "", 0, 2]]
    wire.sbc.send(wire.request("INVITE", f"sip:alice@{DOMAIN}"))
    assert wire.sbc.final().status == 480


def test_reg_18_a_refresh_keeps_it() -> None:
    wire = registrar(agents(min_expires=1))
    alice = Phone(wire)
    ok(alice.register([("Expires", "10")]))
    for _ in range(5):
        wire.run(6)
        ok(alice.again([("Expires", "10")]))
    assert (len(bindings(wire)), counter(wire, "refreshed")) == (1, 5)


def test_a_contact_given_twice_is_one() -> None:
    wire = registrar()
    alice = Phone(wire)
    answer = ok(alice.register(contacts=[f"<{alice.uri}>;expires=100", f"<{alice.uri}>;expires=200"]))
    assert expires(answer) == [200]


@pytest.mark.parametrize("times", [(0, 0), (0, 100), (100, 0), (0, 0, 0), (0, 100, 0), (100, 0, 100)])
@pytest.mark.parametrize("mirror", ["off", "site"])
def test_a_contact_made_and_removed_in_one_breath(times: tuple[int, ...], mirror: str) -> None:
    wire = registrar(agents(2, mirror=mirror))
    alice = Phone(wire)
    for tel in wire.tels:
        tel.handler = lambda packet, tel=tel: packet.method == "REGISTER" and tel.reply(packet, 200)
    ok(alice.register())
    contacts = [f"<{alice.uri}>;expires={each}" for each in times]
    answer = ok(alice.again(contacts=contacts))
    wire.run(1)
    assert expires(answer) == ([times[-1]] if times[-1] else [])
    assert len(bindings(wire)) == (times[-1] != 0)
    assert wire.engine.statistics()["bindings"] == (times[-1] != 0)


# --- limits

def test_too_many_contacts_are_403_with_the_limit() -> None:
    wire = registrar(agents(max_contacts=3))
    for number in range(3):
        phone(wire, number=number + 1)
    late = Phone(wire, address=("127.0.9.9", 5062))
    assert "3" in refused(late.register(), 403).reason
    assert len(bindings(wire)) == 3


def test_too_many_contacts_in_one_register() -> None:
    wire = registrar(agents(max_contacts=3))
    refused(Phone(wire).register(contacts=[f"<sip:a{n}@127.0.9.1>" for n in range(4)]), 403)
    assert bindings(wire) == []


def test_more_contacts_than_are_read_are_refused() -> None:
    wire = registrar(agents(max_contacts=1000))
    refused(Phone(wire).register(contacts=[f"<sip:a{n}@127.0.9.1>" for n in range(65)]), 400)
    wire.run(0.01)
    ok(Phone(wire).register(contacts=[f"<sip:a{n}@127.0.9.1>" for n in range(64)]))


def test_a_contact_may_take_the_place_of_another_in_one_register() -> None:
    wire = registrar(agents(max_contacts=1))
    alice = phone(wire)
    answer = ok(alice.again(contacts=[f"<{alice.uri}>;expires=0", "<sip:new@127.0.9.1:5070>"]))
    assert uris(answer.values("Contact")) == {"sip:new@127.0.9.1:5070"}


def test_unregistered_ones_are_no_contacts() -> None:
    wire = registrar(agents(1, max_contacts=1, mirror="site"))
    wire.tel().handler = lambda packet: packet.method == "REGISTER" and wire.tel().reply(packet, 200)
    first = phone(wire)
    wire.tel().handler = None  # the server does not hear of the end
    ok(first.unregister())
    wire.tel().handler = lambda packet: packet.method == "REGISTER" and wire.tel().reply(packet, 200)
    second = phone(wire, number=2)
    refused(first.again(), 403)
    assert uris(second.fetch()) == {second.uri}


def test_a_full_table_is_503_and_harms_nobody() -> None:
    wire = registrar(agents(limits={"bindings": 3}), users=[f"u{n}" for n in range(5)])
    phones = [phone(wire, f"u{n}", n + 1) for n in range(3)]
    late = Phone(wire, "u4", ("127.0.9.9", 5062))
    assert 30 <= int(refused(late.register(), 503).get("Retry-After")) < 90
    assert counter(wire, "bound_bindings") == 1
    for each in phones:
        assert uris(ok(each.again()).values("Contact")) == {each.uri}
    ok(phones[0].unregister())
    ok(late.again())


def test_a_storm_is_told_to_come_back_at_different_times() -> None:
    wire = registrar()
    wire.engine.set_overloaded(True)
    times = set()
    for number in range(50):
        alice = Phone(wire, address=(f"127.0.9.{number + 1}", 5062))
        times.add(int(refused(alice.send(alice.request()), 503).get("Retry-After")))
    assert len(times) > 10 and min(times) >= 5 and max(times) < 35
    wire.engine.set_overloaded(False)
    phone(wire)


def test_no_6xx_is_ever_sent() -> None:  # REG-13
    wire = registrar(agents(max_contacts=1))
    alice = phone(wire)
    for contact in ("*", "<sip:b@h>", "nonsense", "<sip:a@h>;expires=1"):
        alice.again(contacts=[contact])
    assert all(packet.status < 600 for packet in alice.agent.responses())


def test_a_register_of_a_server_for_an_agent_needs_his_password_too() -> None:
    wire = registrar()
    tel = Phone(wire, address=wire.tel().address)
    refused(tel.send(tel.request()), 401)


def test_a_service_route_in_a_register_that_is_passed_on_is_left_alone() -> None:  # SVR-03
    wire = Wire()
    wire.sbc.send(wire.request("REGISTER", "sip:other.example", headers=[("Service-Route", "<sip:a;lr>")]))
    assert wire.holder("REGISTER").got("REGISTER").get("Service-Route") == "<sip:a;lr>"


def test_two_sites_servers_are_a_platform() -> None:
    """The helper's text is a sound configuration, whatever is mirrored."""
    for mirror in ("off", "site", "platform"):
        assert registrar(agents([server(0), server(1, site="PA5")], mirror=mirror)).config.agents.mirror == mirror
