# SPDX-License-Identifier: Apache-2.0
"""Mistakes in ``[tiers]``, ``[actions]`` and ``[sinks]`` that only their plug-ins know: kinds, rules, parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from ubisip import plugins
from ubisip.errors import UsageError
from ubisip.parameters import SecretError
from ubisip.schema import Report, nearest
from ubisip.sections import Parameters, Sections, Store, Tier
from ubisip.toml_lines import Path

TYPE = "type"
"""The key of ``[actions.NAME]`` and ``[sinks.NAME]`` that names the plug-in; default: NAME."""
REQUESTS = ("switchover", "failback")
"""Events that are an operator's wish, not a verdict."""

_MISTAKE = re.compile(r"(?P<path>[^\s:]+): expected (?P<expected>.+), found (?P<found>.+)")
_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")


def plugin_of(name: str, parameters: Parameters) -> tuple[str, Mapping[str, Any]]:
    """Which plug-in ``[actions.NAME]`` or ``[sinks.NAME]`` means, and the parameters that are its own."""
    kind = parameters.get(TYPE, name)
    return str(kind), {key: value for key, value in parameters.items() if key != TYPE}


def check_tiers(file: Sections, report: Report) -> None:
    """Add to *report* what the plug-ins do not take."""
    for name, tier in file.tiers.items():
        _check_kind(("tiers", name), tier, report)
        _check_rules(("tiers", name), tier, file, report)
    for section, group in (("actions", plugins.ACTIONS), ("sinks", plugins.SINKS)):
        for name, parameters in getattr(file, section).items():
            if not report.broken(section, name):
                _check_plugin((section, name), group, name, parameters, report)
    _check_store(file, report)


def _check_kind(path: Path, tier: Tier, report: Report) -> None:
    if not tier.kind or report.broken(*path, "kind") or report.broken(*path, "parameters"):
        return
    kinds = plugins.found(plugins.PROBES)
    if tier.kind not in kinds:
        report.add((*path, "kind"), f"the name of a probe {nearest(tier.kind, kinds)}", tier.kind)
        return
    _check_made(
        (*path, "kind"), (*path, "parameters"), plugins.PROBES, tier.kind, lambda make: make(tier.parameters), report
    )


def _check_rules(path: Path, tier: Tier, file: Sections, report: Report) -> None:
    if report.broken(*path, "kind"):
        return
    try:
        codes = [code.replace("-", "_") for code in plugins.policy(tier.kind).codes]
    except UsageError as error:
        report.add((*path, "kind"), f"a kind that can be judged: {error}", tier.kind)
        return
    known = sorted({*plugins.found(plugins.ACTIONS), *file.actions, *file.sinks})
    for event, names in tier.on.items():
        place: Path = (*path, f"on_{event}")
        if report.broken(*place):
            continue
        if event not in (*codes, *REQUESTS):
            report.add(place, f"on_ and a verdict on {tier.kind} {nearest(event, [*codes, *REQUESTS])}", f"on_{event}")
        for index, name in enumerate(names):
            if name not in known:
                report.add((*place, index), f"an action or a sink of this file {nearest(name, known)}", name)
            elif name not in file.actions and name not in file.sinks:
                _check_bare((*place, index), name, report)


def _check_bare(path: Path, name: str, report: Report) -> None:
    """An action that a rule names and the file says nothing of should be one that needs no parameters."""
    try:
        lack = lack_of(name)
    except UsageError as error:
        report.add(path, f"an action that can be used here: {error}", name)
        return
    if lack:
        report.warn(path, f"{name} is left out, for there is no [actions.{name}] ({lack})")


def lack_of(name: str) -> str:
    """What an action of which the file says nothing would need to be told; empty: nothing.

    :raises UsageError: it cannot be used here.
    """
    try:
        plugins.load(plugins.ACTIONS, name)({})
    except SecretError:
        return ""
    except ValueError as error:
        return str(error).partition("\n")[0]
    return ""


def usable_rules(tier: Tier, file: Sections) -> Mapping[str, tuple[str, ...]]:
    """The rules of *tier* without the actions that cannot be taken, of which a warning told."""
    told = {*file.actions, *file.sinks}
    return {
        event: tuple(name for name in names if name in told or not lack_of(name)) for event, names in tier.on.items()
    }


def _check_plugin(path: Path, group: str, name: str, parameters: Parameters, report: Report) -> None:
    kind, own = plugin_of(name, parameters)
    if kind not in plugins.found(group):
        place = (*path, TYPE) if TYPE in parameters else path
        report.add(place, f"a plug-in of {group} {nearest(kind, plugins.found(group))}", kind)
    elif group == plugins.SINKS:
        _check_made(path, path, group, kind, lambda make: make(own, ""), report)
    else:
        _check_made(path, path, group, kind, lambda make: make(own), report)


def _check_made(
    path: Path, inside: Path, group: str, kind: str, made: Callable[[Callable[..., object]], object], report: Report
) -> None:
    """Make the plug-in as a gateway would: what it does not take becomes mistakes below *inside*."""
    try:
        made(plugins.load(group, kind))
    except UsageError as error:
        report.add(path, f"a plug-in that can be used here: {error}", kind)
    except (
        SecretError
    ):  # a file is checked wherever; its secrets stand on the gateways, which ask for them at their start
        return
    except ValueError as error:
        for line in str(error).splitlines():
            match = _MISTAKE.fullmatch(line)
            if match is None:
                report.add(inside, line, kind)
            else:
                report.note((*inside, *_parts(match["path"])), match["expected"], match["found"])


def _parts(path: str) -> Path:
    return tuple(int(number) if number else key for number, key in _PART.findall(path))


def _check_store(file: Sections, report: Report) -> None:
    """Two controllers that do not see one store would both lead; and what its keys ask of each other."""
    _check_etcd(file.store, report)
    acting = [name for name, tier in file.tiers.items() if tier.mode != "observe"]
    if acting and len(file.gateways) > 1 and file.store.url == "sqlite:" and not report.broken("store"):
        wanted = (
            f"etcd: with its members, or sqlite: with the file that all gateways of one machine share, as several"
            f" gateways watch over [tiers.{acting[0]}]"
        )
        report.add(("store", "url"), wanted, file.store.url)


def _check_etcd(store: Store, report: Report) -> None:
    """A key that would be of no effect is a mistake: somebody believes in it."""
    if report.broken("store"):
        return
    scheme, _, members = store.url.partition(":")
    etcd, tls = scheme == "etcd", scheme == "etcd" and "http://" not in members
    for key, given, wanted, found in (
        ("ca_file", store.ca_file, tls, "members of etcd by https, or no ca_file"),
        ("certificate_file", store.certificate_file, tls, "members of etcd by https, or no certificate_file"),
        ("key_file", store.key_file, bool(store.certificate_file), "certificate_file as well"),
        ("user", store.user, etcd and bool(store.password_file), "etcd: and password_file as well"),
        ("password_file", store.password_file, bool(store.user), "user as well"),
    ):
        if given and not wanted:
            report.add(("store", key), found, given)
