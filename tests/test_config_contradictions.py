# SPDX-License-Identifier: Apache-2.0
"""Mistakes that lie between keys: names, sites, addresses and sources of a platform that contradict each other."""

from __future__ import annotations

import pytest
from config_texts import AGENTS, GOOD, TIER, changed, marked, mistakes, only

from ubisip.config import Config

FIRST = "carriers[0].name on line 7 has it"


def added(table: str, **keys: str) -> str:
    """GOOD with one more table; keys as TOML writes them."""
    values = {"name": '"new"', "site": '"A"'} | keys
    return GOOD + f"[[{table}]]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("carriers[1].name", added("carriers", name='"sbc" #!', uri='"sip:192.0.2.2"')),
        ("gateways[2].name", added("gateways", name='"sbc" #!', listen='["udp:127.0.0.3:5060"]')),
        ("servers[2].name", added("servers", name='"sbc" #!', uri='"sip:127.0.0.4"')),
    ],
)
def test_carriers_gateways_and_servers_share_one_set_of_names(path: str, text: str) -> None:
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), path)
    assert mistake.expected == f"a name of its own ({FIRST})"


def test_the_members_of_a_tier_have_names_of_their_own() -> None:
    text = changed(
        '{ name = "b", site = "B", address = "127.0.0.1:2" },', '{ name = "a", site = "B", address = "x" }, #!', TIER
    )
    text = GOOD + text
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), "tiers.db.members[1].name")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("carriers[0].site", changed('site = "A"', 'site = "AA" #!')),
        ("gateways[1].site", changed('site = "B"', 'site = "C" #!')),
        ("servers[1].site", changed('site = "B"', 'site = "C" #!', occurrence=2)),
        (
            "tiers.db.members[0].site",
            GOOD + changed('"A", address = "127.0.0.1:1" },', '"C", address = "x" }, #!', TIER),
        ),
    ],
)
def test_unknown_site(path: str, text: str) -> None:
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), path)
    assert mistake.expected.startswith("a site of this file (")


def test_no_site_at_all() -> None:
    text = changed("[sites.A]\n[sites.B]", "[sites] #!")
    assert (mistakes(text)[0].line, mistakes(text)[0].path) == (marked(text), "sites")


def test_two_gateways_without_a_key_file() -> None:
    text = changed('[platform]\nname = "p"\nkey_file = "ring"', '[platform] #!\nname = "p"')
    mistake = only(text)
    assert (mistake.line, mistake.path, mistake.found) == (marked(text), "platform.key_file", "nothing")


LISTEN = 'listen = ["udp:127.0.0.2:5060"]'


@pytest.mark.parametrize(
    ("path", "listen"),
    [
        ("gateways[1].listen[0]", '["udp:127.0.0.1:5060"] #!'),
        ("gateways[1].listen[1]", '["udp:127.0.0.2:5060",\n"udp:127.0.0.1:5060"] #!'),
        ("gateways[1].listen[1]", '["udp:127.0.0.2:5060",\n"udp:127.0.0.2:5060"] #!'),
        ("gateways[1].listen[1]", '["tcp:127.0.0.2:5060",\n"wss:127.0.0.2:5060", #!\n"udp:127.0.0.2:5060"]'),
        ("gateways[1].listen[1]", '["udp:[::1]:5060",\n"udp:[0:0::1]:5060"] #!'),
        ("gateways[1].listen[1]", '["udp:0.0.0.0:5060",\n"udp:0.0.0.0:5060"] #!\nadvertise = "a.example"'),
    ],
)
def test_two_listeners_at_one_address(path: str, listen: str) -> None:
    text = changed(LISTEN, f"listen = {listen}")
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), path)
    assert mistake.expected.startswith("a listening address of its own (gateways[")


def test_a_gateway_that_listens_everywhere_must_say_what_it_is_called() -> None:
    text = changed("[[gateways]]", "[[gateways]] #!", occurrence=2)
    mistake = only(changed(LISTEN, 'listen = ["udp:0.0.0.0:5060"]', text))
    assert (mistake.line, mistake.path) == (marked(text), "gateways[1].advertise")


def test_admin_beyond_loopback_needs_a_token() -> None:
    text = changed(LISTEN, LISTEN + '\nadmin = "192.0.2.9:80" #!')
    mistake = only(text)
    assert (mistake.line, mistake.path, mistake.found) == (marked(text), "gateways[1].admin", '"192.0.2.9:80"')


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        ("udp:127.0.0.3:5060", 'a listener of a gateway (nearest: "udp:127.0.0.'),
        ("tcp:127.0.0.1:5060", "a listener of a gateway"),
        ("udp:[::1]:5060", "a listener with the transport and network of its uri (udp:127.0.0.1:5072)"),
        ("tcp:[::1]:5060", "a listener with the transport and network of its uri (udp:127.0.0.1:5072)"),
        ("127.0.0.1:5060", "a listening address such as"),
    ],
)
def test_a_listener_key_that_leads_nowhere(listener: str, expected: str) -> None:
    text = changed(LISTEN, 'listen = ["udp:127.0.0.2:5060", "udp:[::1]:5060", "tcp:[::1]:5060"]')
    text += f'listener = "{listener}" #!\n'
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), "servers[1].listener")
    assert expected in mistake.expected


@pytest.mark.parametrize("uri", ["sip:127.0.0.9;transport=tcp", "sip:[::1]", "sip:127.0.0.9;transport=tls"])
def test_a_peer_that_no_listener_reaches(uri: str) -> None:
    text = added("servers", uri=f'"{uri}" #!')
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), "servers[2].uri")
    assert "udp:127.0.0.1:5060, udp:127.0.0.2:5060" in mistake.expected


def test_a_peer_at_a_gateways_own_address() -> None:
    text = added("servers", uri='"sip:127.0.0.2" #!')
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), "servers[2].uri")
    assert mistake.expected == "an address that is no gateway's (gateways[1].listen[0] on line 17 has it)"


@pytest.mark.parametrize("table", ["carriers", "servers"])
def test_a_host_name_does_not_say_who_may_send(table: str) -> None:
    text = GOOD + f"[[{table}]] #!\n" + added(table, uri='"sip:new.example"').removeprefix(GOOD + f"[[{table}]]\n")
    mistake = only(text)
    assert (mistake.line, mistake.path.partition("]")[2]) == (marked(text), ".sources")


CLAIMS = [  # sources of a carrier, of another carrier, of a server: whether they clash
    ('"10.0.0.1"', '"10.0.0.1"', '"10.9.9.9"', True),
    ('"10.0.0.1:5060"', '"10.0.0.1:5060"', '"10.9.9.9"', True),
    ('"10.0.0.0/8"', '"10.0.0.0/8"', '"11.0.0.1"', True),
    ('"10.0.0.1/32"', '"10.0.0.1"', '"11.0.0.1"', True),
    ('"2001:db8::/32"', '"2001:0db8:0::/32"', '"11.0.0.1"', True),
    ('"10.0.0.1:5060"', '"10.0.0.1:5061"', '"10.0.0.1:5062"', False),
    ('"10.0.0.1"', '"10.0.0.1:5061"', '"10.0.0.1:5062"', False),
    ('"10.0.0.0/8"', '"10.0.0.1:5061"', '"10.0.0.1:5062"', False),
    ('"10.0.0.0/8"', '"10.1.0.0/16"', '"11.0.0.1"', False),
    ('"10.0.0.1"', '"::a00:1"', '"::a00:2"', False),
]
ACROSS = [
    ('"10.0.0.1"', '"10.9.9.9"', '"10.0.0.1"', True),
    ('"10.0.0.0/8"', '"11.0.0.1"', '"10.1.0.0/16"', True),
    ('"10.1.0.0/16"', '"11.0.0.1"', '"10.0.0.0/8"', True),
    ('"10.0.0.1:5060"', '"11.0.0.1"', '"10.0.0.1:5060"', True),
    ('"10.0.0.1:5060"', '"11.0.0.1"', '"10.0.0.0/8"', False),
]


@pytest.mark.parametrize(("one", "two", "server", "clash"), CLAIMS + ACROSS)
def test_overlapping_sources(one: str, two: str, server: str, clash: bool) -> None:
    text = changed('uri = "sip:192.0.2.1"', f'uri = "sip:192.0.2.1"\nsources = ["192.0.2.7",\n{one}]')
    text = changed('sources = ["127.0.0.1:5072"]', f"sources = ['127.0.0.1:5072',\n\n{server}]", text)
    text += f"[[carriers]]\nname = 'c2'\nsite = 'A'\nuri = 'sip:192.0.2.2'\nsources = [{two}]\n"
    if not clash:
        assert len(Config.parse(text).carriers) == 2
        return
    mistake = only(text)
    later = "servers[1].sources[1]" if (one, two, server, clash) in ACROSS else "carriers[1].sources[0]"
    assert mistake.path == later
    needle = server if later.startswith("servers") else f"sources = [{two}]"
    assert mistake.line == max(n for n, line in enumerate(text.splitlines(), 1) if needle in line)
    assert mistake.expected == "a source of its own (carriers[0].sources[1] on line 11 claims it)"


def test_the_default_source_is_a_claim_too() -> None:
    text = added("servers", uri='"sip:192.0.2.1:5090" #!')
    mistake = only(text)
    assert (mistake.line, mistake.path, mistake.found) == (marked(text), "servers[2].uri", '"192.0.2.1"')
    assert mistake.expected == "a source of its own (carriers[0].uri on line 9 claims it)"


@pytest.mark.parametrize("side", ["carriers", "servers"])
def test_a_side_of_which_nobody_can_be_chosen(side: str) -> None:
    text = GOOD.replace(f"[[{side}]]", f"[[{side}]]\nweight = 0")
    text = changed("weight = 0", "weight = 0 #!", text)
    path = f"{side}[0].weight"
    found = only(text)
    assert (found.line, found.path) == (marked(text), path)


def test_an_unknown_policy_names_the_nearest() -> None:
    text = GOOD + '[routing]\npolicy = "least_calls" #!'
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), "routing.policy")
    assert '(nearest: "least-calls")' in mistake.expected


@pytest.mark.parametrize("code", [200, 299, 700, 0, -503])
def test_a_response_that_can_never_be_a_failure(code: int) -> None:
    text = GOOD + f"[routing]\nfailover_on = [\n500,\n{code}, #!\n503]"
    mistake = only(text)
    assert (mistake.line, mistake.path, mistake.found) == (marked(text), "routing.failover_on[1]", str(code))


def test_no_servers_at_all() -> None:
    (mistake,) = mistakes(GOOD.split("[[servers]]")[0])
    assert (mistake.path, mistake.expected) == ("servers", "at least one table [[servers]]")


def test_no_gateways_at_all() -> None:
    carriers, *_, servers = GOOD.split("[[gateways]]")
    (mistake,) = mistakes(carriers + servers[servers.index("[[servers]]") :])
    assert (mistake.path, mistake.expected) == ("gateways", "at least one table [[gateways]]")


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("agents.default_expires", "min_expires = 4000"),
        ("agents.default_expires", "max_expires = 3000"),
        ("agents.default_expires", "default_expires = 30"),
        ("agents.mirror_quorum", "mirror_quorum = 2"),
        ("agents.algorithms", "algorithms = ['MD5', 'SHA-256']"),
        ("agents.algorithms", "algorithms = ['SHA-256', 'SHA-256']"),
        ("agents.mirror_quorum", "mirror = 'platform'\nmirror_quorum = 3"),
        ("agents.mirror", "mirror = 'both'"),
        ("agents.credentials", "credentials = 'users.csv'"),
    ],
)
def test_agents(path: str, keys: str) -> None:
    mistake = only(GOOD + AGENTS + keys)
    assert mistake.path == path


def test_a_quorum_that_the_whole_platform_can_give() -> None:
    assert Config.parse(GOOD + AGENTS + "mirror = 'platform'\nmirror_quorum = 2").agents is not None
    assert Config.parse(GOOD + AGENTS + "mirror = 'off'\nmirror_quorum = 9").agents is not None


@pytest.mark.parametrize(
    ("path", "keys"),
    [("store.url", "url = 'mysql:x'"), ("store.url", "url = 'etcd:127.0.0.1'"), ("store.soft", "soft = 'memcached:x'")],
)
def test_store(path: str, keys: str) -> None:
    assert only(GOOD + "[store]\n" + keys).path == path


@pytest.mark.parametrize("uri", ["sip:new.example", "sip:192.0.2.1:5090"])
def test_sources_that_were_written_wrong_are_not_told_again_as_missing_or_claimed(uri: str) -> None:
    text = added("servers", uri=f'"{uri}"', sources='["oops"] #!')
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), "servers[2].sources[0]")
