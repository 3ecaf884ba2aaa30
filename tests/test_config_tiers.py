# SPDX-License-Identifier: Apache-2.0
"""Mistakes that only plug-ins know: kinds, rules, parameters of actions and sinks, the store of several gateways."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_texts import GOOD, TIER, marked, mistakes, only

from ubisip import plugins
from ubisip.config import Config
from ubisip.errors import UsageError

ETCD = "[store]\nurl = 'etcd:http://127.0.0.1:2379'\n"
WEB = """
[tiers.web]
kind = "http"
members = [{ name = "w", site = "A", address = "http://127.0.0.1:80/" }]
"""

WRONG = [
    ("tiers.db.kind", GOOD + TIER.replace('"mariadb"', '"mariabd" #!'), '(nearest: "mariadb")'),
    ("tiers.db.on_dead_primry", GOOD + TIER + "on_dead_primry = [] #!", '(nearest: "dead_primary")'),
    ("tiers.web.on_dead_primary", GOOD + WEB + "on_dead_primary = [] #!", "a verdict on http"),
    ("tiers.db.on_dead_primary[1]", GOOD + TIER + "on_dead_primary = ['mariadb-promote',\n'haproxi' #!\n]", "haproxy"),
    ("tiers.web.parameters.colour", GOOD + WEB + "[tiers.web.parameters]\ncolour = 1 #!", "a known key"),
    ("actions.haproxi", GOOD + "[actions.haproxi] #!\nx = 1", '(nearest: "haproxy")'),
    ("actions.one.type", GOOD + "[actions.one]\ntype = 'haproxi' #!", '(nearest: "haproxy")'),
    ("actions.exec.command", GOOD + "[actions.exec]\ncommand = 5 #!", "an array"),
    ("sinks.alertt", GOOD + "[sinks.alertt] #!", '(nearest: "alert")'),
    ("store.url", GOOD + "[store]\nurl = 'sqlite:' #!" + TIER + "mode = 'ask'", "as several gateways watch over"),
]


@pytest.mark.parametrize(("path", "text", "expected"), WRONG, ids=[row[0] for row in WRONG])
def test_a_mistake_in_a_tier(path: str, text: str, expected: str) -> None:
    mistake = only(text)
    assert (mistake.path, mistake.line) == (path, marked(text))
    assert expected in mistake.expected


def test_an_action_without_the_parameters_that_it_needs_is_left_out(tmp_path: Path) -> None:
    """The gateway runs, for calls must go on; the check and the log warn."""
    path = tmp_path / "platform.toml"
    path.write_text(GOOD + TIER + "on_dead_primary = ['dns-rfc2136']")
    config = Config.load(path)
    (warning,) = config.warnings
    assert "tiers.db.on_dead_primary[0]: dns-rfc2136 is left out" in warning
    assert config.tiers["db"].on["dead_primary"] == ()


def test_names_of_files_in_parameters_are_seen_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "dns.key").write_text("c2VjcmV0")
    text = GOOD + "[actions.dns-rfc2136]\nserver = '127.0.0.1:53'\nzone = 'z.test'\nnames = ['a.z.test']\n"
    config = Config.parse(text + "key_name = 'k'\nkey_file = 'dns.key'\n", tmp_path)
    assert config.actions["dns-rfc2136"]["key_file"] == str(tmp_path / "dns.key")


def test_what_the_plug_ins_take_is_none() -> None:
    text = GOOD + ETCD + TIER + 'mode = "automatic"\non_dead_primary = ["mariadb-promote", "tell", "page"]\n'
    text += 'on_switchover = ["mariadb-switchover"]\non_failback = ["mariadb-switchover"]\n'
    text += '[actions.tell]\ntype = "exec"\ncommand = ["/bin/true"]\n[sinks.page]\ntype = "log"\n'
    config = Config.parse(text)
    assert config.tiers["db"].on["dead_primary"] == ("mariadb-promote", "tell", "page")


def test_gateways_of_one_machine_may_share_a_file() -> None:
    text = GOOD + "[store]\nurl = 'sqlite:/run/ubisip/store.db'\n" + TIER + 'mode = "automatic"\n'
    assert Config.parse(text).store.url == "sqlite:/run/ubisip/store.db"


def test_a_tier_that_is_only_observed_needs_no_shared_store() -> None:
    assert Config.parse(GOOD + TIER).tiers["db"].mode == "observe"


def test_what_a_key_has_wrong_is_told_once() -> None:
    text = GOOD + TIER.replace('"mariadb"', "5") + "on_dead_primary = 5\n[actions.x]\ny = " + "[" * 20 + "]" * 20
    assert [mistake.path for mistake in mistakes(text)] == ["tiers.db.kind", "tiers.db.on_dead_primary", "actions.x.y"]


def test_a_plug_in_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"no plug-in 'nope' in ubisip.sinks; there are: alert"):
        plugins.load(plugins.SINKS, "nope")


@pytest.mark.parametrize("group", [plugins.PROBES, plugins.POLICIES, plugins.ACTIONS, plugins.SINKS])
def test_every_entry_point_can_be_loaded(group: str) -> None:
    assert plugins.found(group)
    for name in plugins.found(group):
        assert plugins.load(group, name) is not None
