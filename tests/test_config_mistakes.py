# SPDX-License-Identifier: Apache-2.0
"""Every mistake of a configuration file is found, at its line and path, and told once."""

from __future__ import annotations

import pytest
from config_texts import AGENTS, GOOD, INLINE_SERVER, TIER, changed, marked, mistakes, only

from ubisip.config import Config
from ubisip.errors import ConfigError


def test_the_good_text_has_none() -> None:
    assert Config.parse(GOOD + TIER + AGENTS).gateway("gw2").site == "B"


def test_a_mistake_prints_file_line_path_expected_and_found() -> None:
    text = changed('uri = "sip:127.0.0.1:5071"', "uri = 5071")
    (mistake,) = mistakes(text)
    assert str(mistake) == (
        'platform.toml:21: servers[0].uri: expected a SIP URI such as "sip:127.0.0.1:5071", found 5071'
    )


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        changed('"p"', "1").replace('site = "B"', 'site = "C"').replace("5072", "99999")
        + "[routing]\npolcy = 1\nt1 = 0"
    )
    assert [(mistake.line, mistake.path) for mistake in mistakes(text)] == [
        (2, "platform.name"),
        (16, "gateways[1].site"),
        (25, "servers[1].site"),
        (26, "servers[1].uri"),
        (27, "servers[1].sources[0]"),
        (29, "routing.polcy"),
        (30, "routing.t1"),
    ]


def test_the_error_text_has_a_line_for_each() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.parse("[platform]\nname = 1\n[sites.A]\n", file="platform.toml")
    assert len(str(caught.value).splitlines()) == len(caught.value.mistakes) == 3


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[platform]\nname = #!", "Invalid value"),
        ("[platform]\n\n[platform] #!", "Cannot declare ('platform',) twice"),
        ("a = 1\na = 2 #!", "Cannot overwrite a value"),
        ("a = '''\nb #!", "Expected \"'''\""),
        ("a = 1 b #!", "Expected newline or end of document after a statement"),
    ],
)
def test_toml_syntax(text: str, found: str) -> None:
    mistake = only(text)
    assert (mistake.line, mistake.path, mistake.expected) == (marked(text), "", "TOML")
    assert mistake.found == found


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 10_000, "a = " + "{a=" * 5_000])
def test_what_the_toml_reader_cannot_hold(text: str) -> None:
    assert only(text).expected == "TOML"


BAD_URIS = [
    "sips:127.0.0.1;transport=udp",
    "", "127.0.0.1", "tel:123", "sip:", "sip:127.0.0.1:", "sip:127.0.0.1:0", "sip:127.0.0.1:65536",
    "sip:127.0.0.256", "sip:127.0.0", "sip:::1", "sip:[::1", "sip:[127.0.0.1]", "sip:[fe80::1%eth0]", "sip:a_b.example",
    "sip:-a.example", "sip:a..b", "sip:user@127.0.0.1", "sip:127.0.0.1?x=y", "sip:127.0.0.1;transport=sctp",
    "sip:127.0.0.1;transport=ws", "sip:127.0.0.1;maddr=127.0.0.2", "sip:127.0.0.1;", "sip:127.0.0.1:50 71",
    "sip: 127.0.0.1", "sip:127.0.0.1:5071 ", "sip:0.0.0.0", "sip:[::ffff:10.0.0.1]", "sip:[::]:5060", "sip:224.0.1.75",
]  # fmt: skip
BAD_LISTEN = [
    "", "127.0.0.1:5060", "udp", "udp:", "udp:127.0.0.2", "udp:127.0.0.2:", "udp:127.0.0.2:0", "udp:127.0.0.2:70000",
    "udp:localhost:5060", "udp:::1:5060", "udp:*:5060", "sctp:127.0.0.2:5060", "UDP:127.0.0.2:5061",
    "udp://127.0.0.2:5061",
]  # fmt: skip
BAD_SOURCES = [
    "", "tel1.example", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.0/33", "127.0.0.1/32:5060",
    "127.0.0.1/24", "127.0.0.0/", "fe80::1%eth0", "fe80::1%eth0/64", "[::1]:", "*",
    "::ffff:10.0.0.1", "[::ffff:10.0.0.1]:5060", "::ffff:10.0.0.0/104",
]  # fmt: skip
NO_URI = changed('uri = "sip:127.0.0.1:5072"\n', "")
WRONG = [
    # sections and keys that are unknown
    ("routin", GOOD + "[routin] #!\nt1 = 1", 'a known section (nearest: "routing")'),
    ("zzz", GOOD + "[zzz] #!", "a known section (one of platform, sites, carriers,"),
    ("name", 'name = "x" #!\n' + GOOD, "a known section"),
    ("routing.polcy", GOOD + '[routing]\npolcy = "hash" #!', 'a known key (nearest: "policy")'),
    ("health.sip.intervall", GOOD + "[health.sip]\nintervall = 1 #!", '(nearest: "interval")'),
    ("health.sipp", GOOD + "[health.sipp] #!\nfall = 1", '(nearest: "sip")'),
    ("servers[1].wieght", GOOD + "wieght = 5 #!", '(nearest: "weight")'),
    ("servers[1].centre", GOOD + "centre = 'x' #!", "a known key (one of name, site, uri"),
    ("sites.B.x", GOOD.replace("[sites.B]", "[sites.B]\nx = 1 #!"), "a known key"),
    ("agents.realms", GOOD + AGENTS + "realms = 'x' #!", '(nearest: "realm")'),
    ("store.uri", GOOD + "[store]\nuri = 'sqlite:' #!", '(nearest: "url")'),
    ("limits.call", GOOD + "[limits]\ncall = 3 #!", '(nearest: "calls")'),
    ("tiers.db.membres", GOOD + TIER + "membres = 1 #!", '(nearest: "members")'),
    ("tiers.db.members[1].adress", changed('"127.0.0.1:2" },', '"x", adress = 1 }, #!', GOOD + TIER), '"address"'),
    ('routing."a b"', GOOD + '[routing]\n"a b" = 1 #!', "a known key"),
    # wrong types
    ("platform.name", changed('name = "p"', "name = ['p'] #!"), "a string that is not empty"),
    ("platform.name", changed('name = "p"', 'name = "" #!'), "a string that is not empty"),
    ("platform.state_dir", changed("[sites.A]", 'state_dir = "a\\u0000" #!\n[sites.A]'), "the name of a file"),
    ("routing.t1", GOOD + "[routing]\nt1 = '0.1' #!", "a number from 0.01 to 4"),
    ("routing.t1", GOOD + "[routing]\nt1 = true #!", "a number from 0.01 to 4"),
    ("routing.t1", GOOD + "[routing]\nt1 = 07:32:00 #!", "a number from 0.01 to 4"),
    ("health.sip.fall", GOOD + "[health.sip]\nfall = 2.0 #!", "a whole number from 1 to 100"),
    ("health.sip.rise", GOOD + "[health.sip]\nrise = false #!", "a whole number from 1 to 100"),
    ("health", GOOD.replace("[platform]", "health = 'x' #!\n[platform]"), "a table"),
    ("routing.failover_on", GOOD + "[routing]\nfailover_on = 503 #!", "an array, each a whole number from 300 to 699"),
    ("routing.emergency[1]", GOOD + "[routing]\nemergency = ['15',\n18] #!", 'a number in quotes such as "112"'),
    ("routing.policy", GOOD + "[routing]\npolicy = ['hash'] #!", 'one of "hash", "least-calls"'),
    ("carriers", changed("[[carriers]]", "[carriers] #!"), "tables headed [[carriers]]"),
    ("servers[0]", "servers = [\n1, #!\n" + INLINE_SERVER + "]\n" + GOOD.split("[[servers]]")[0], "a table"),
    ("sites.A", changed("[sites.A]\n[sites.B]", "[sites]\nA = 'x' #!\nB = {}"), "a table"),
    ('sites."a b"', changed("[sites.A]", "[sites.A]\n[sites.'a b'] #!"), "a name of at most 64"),
    ("actions.x", GOOD + "[actions]\nx = 1 #!", "a table"),
    ("tiers.db.on_dead", GOOD + TIER + "on_dead = 'alert' #!", "an array, each a name"),
    ("tiers.db.on_dead_primary[1]", GOOD + TIER + "on_dead_primary = ['alert',\n5 #!\n]", "a name of at most 64"),
    ("actions.x.y", GOOD + "[actions.x]\ny = " + "[" * 20 + "]" * 20 + " #!", "values nested at most 16 deep"),
    # out of range
    ("routing.t1", GOOD + "[routing]\nt1 = 5 #!", "a number from 0.01 to 4"),
    ("routing.t1", GOOD + "[routing]\nt1 = nan #!", "a number from 0.01 to 4"),
    ("routing.timer_c", GOOD + "[routing]\ntimer_c = 180 #!", "a number above 180 to 86400"),
    ("routing.timer_c", GOOD + "[routing]\ntimer_c = inf #!", "a number above 180 to 86400"),
    ("routing.coalesce", GOOD + "[routing]\ncoalesce = -1 #!", "a number from 0 to 20"),
    ("routing.hook_timeout", GOOD + "[routing]\nhook_timeout = 0 #!", "a number from 0.001 to 10"),
    ("routing.first_response_timeout", GOOD + "[routing]\nfirst_response_timeout = 33 #!", "from 0.05 to 32"),
    ("limits.transactions", GOOD + "[limits]\ntransactions = 0 #!", "a whole number from 1 to"),
    ("limits.memory", GOOD + "[limits]\nmemory = 0x" + "f" * 5_000 + " #!", "a whole number from 1 to"),
    ("limits.refusals", GOOD + "[limits]\nrefusals = -0.5 #!", "a number from 0 to"),
    ("servers[1].weight", GOOD + "weight = -1 #!", "a whole number from 0 to 10000"),
    ("servers[1].max_calls", GOOD + "max_calls = -1 #!", "a whole number from 0"),
    # what is required
    ("platform.name", changed('[platform]\nname = "p"', "[platform] #!"), "a string that is not empty"),
    ("servers[1].site", changed('[[servers]]\nname = "tel2"\nsite = "B"', '[[servers]] #!\nname = "tel2"'), "a name"),
    ("servers[1].uri", changed("[[servers]]", "[[servers]] #!", NO_URI, 2), "a SIP URI"),
    ("gateways[0].listen", changed('listen = ["udp:127.0.0.1:5060"]', "listen = [] #!"), "an array of at least one"),
    ("tiers.db.kind", changed('[tiers.db]\nkind = "mariadb"', "[tiers.db] #!", GOOD + TIER), "a name"),
    ("agents.domains", GOOD + AGENTS.replace("['d']", "[] #!"), "an array of at least one"),
    ("agents.algorithms", GOOD + AGENTS + "algorithms = [] #!", "an array of at least one"),
    ("agents.algorithms[1]", GOOD + AGENTS + "algorithms = ['SHA-256', 'SHA-1'] #!", "SHA-512-256"),
    ("agents.realm", GOOD + AGENTS.replace("[agents]\nrealm = 'r'", "[agents] #!"), "a string that is not empty"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "text", "expected"), WRONG)
def test_a_key_that_is_wrong_in_itself(path: str, text: str, expected: str) -> None:
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), path)
    assert expected in mistake.expected


@pytest.mark.parametrize("uri", BAD_URIS)
def test_bad_uri(uri: str) -> None:
    text = changed('"sip:127.0.0.1:5071"', f"'{uri}' #!")
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), "servers[0].uri")
    assert mistake.expected.startswith('a SIP URI such as "sip:127.0.0.1:5071"')


@pytest.mark.parametrize("listen", BAD_LISTEN)
def test_bad_listening_address(listen: str) -> None:
    text = changed('listen = ["udp:127.0.0.2:5060"]', f'listen = ["udp:127.0.0.2:5060",\n"{listen}"] #!')
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), "gateways[1].listen[1]")
    assert mistake.expected.startswith('a listening address such as "udp:127.0.0.1:5060"')


@pytest.mark.parametrize("source", BAD_SOURCES)
def test_bad_source(source: str) -> None:
    text = changed('sources = ["127.0.0.1:5071"]', f'sources = [\n"{source}" #!\n]')
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), "servers[0].sources[0]")
    assert mistake.found == f'"{source}"'


def test_bits_beyond_a_network_tell_the_network_that_was_meant() -> None:
    text = changed('"127.0.0.1:5071"', '"192.0.2.9/24"')
    assert only(text).expected == 'the network "192.0.2.0/24" (no bits set beyond its length)'


@pytest.mark.parametrize("side", ["carriers", "servers"])
def test_empty_sources(side: str) -> None:
    text = GOOD.replace(f"[[{side}]]", f"[[{side}]]\n\n", 1)
    old = 'uri = "sip:192.0.2.1"' if side == "carriers" else 'sources = ["127.0.0.1:5071"]'
    new = old + "\nsources = [] #!" if side == "carriers" else "sources = [] #!"
    mistake = only(changed(old, new, text))
    assert (mistake.line, mistake.path) == (marked(changed(old, new, text)), f"{side}[0].sources")
    assert mistake.found == "an empty array"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("advertise", "'a b'"),
        ("advertise", "'sip:a.example'"),
        ("advertise", "'::1'"),
        ("advertise", "'a.example:0'"),
        ("advertise", "5060"),
        ("admin", "'localhost:8080'"),
        ("admin", "'127.0.0.1'"),
        ("admin", "8080"),
        ("admin_token_file", "true"),
    ],
)
def test_bad_gateway_key(key: str, value: str) -> None:
    text = changed('listen = ["udp:127.0.0.2:5060"]', f'listen = ["udp:127.0.0.2:5060"]\n{key} = {value} #!')
    mistake = only(text)
    assert (mistake.line, mistake.path) == (marked(text), f"gateways[1].{key}")


def test_an_empty_file_lacks_every_required_section() -> None:
    assert [(mistake.line, mistake.path, mistake.found) for mistake in mistakes("")] == [
        (1, "platform", "nothing"),
        (1, "sites", "nothing"),
        (1, "gateways", "nothing"),
        (1, "servers", "nothing"),
    ]


def test_a_long_value_is_cut() -> None:
    mistake = only(changed('"sip:127.0.0.1:5071"', '"' + "x" * 1_000 + '"'))
    assert mistake.found == '"' + "x" * 56 + "..."


def test_control_characters_are_not_printed_raw() -> None:
    assert "\x1b" not in str(only(changed('"sip:127.0.0.1:5071"', '"\\u001b[2J"')))
