# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501  # rows of tables and examples are lines of the page
"""Write docs/tiers.md: every probe, action and sink with its parameters, from the docstrings under their fields.

Run it as ``python docs/make_tiers.py``.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ubisip import plugins
from ubisip.schema import REQUIRED, describe, field_kinds, unwrap

PAGE = Path(__file__).with_name("tiers.md")

HEADER = """\
# Probes, actions and sinks

<!-- Made by docs/make_tiers.py from the docstrings of the plug-ins: edit those, or the notes in that script. -->

What a tier's `kind`, the names in its rules and the sections `[sinks.NAME]` can be, with all their parameters. How they
work together is in [failover](failover.md); the databases' own (`mariadb`, `mariadb-promote`...) are in
[databases](databases.md). Others of your own are entry points of the groups `ubisip.probes`, `ubisip.actions` and
`ubisip.sinks`: see `ubisip.health.probe` and `ubisip.failover.action`.

A section takes `type` where its name is not that of the plug-in: `[actions.web] type = "haproxy"`,
`[sinks.pager] type = "webhook"`. File names are relative to the folder of the configuration file.

## What all probes have in common

A probe makes a connection of its own each time and throws it away: one that is kept open would not notice that new ones
are refused. Its parameters stand in `[tiers.NAME.parameters]`; user and password are the tier's. It answers in its
`timeout`, never raises, and reads no more than a bound.

| it says | when | codes that all share |
|---|---|---|
| fail, at once counted | the network says that nobody is there | `refused` `unreachable` |
| fail | no answer, or the connection breaks, or it is none of the protocol | `timeout` `reset` `protocol` |
| fail | the member answers that it does not serve | of its kind |
| warn | it serves, but something needs a look: half of the weight | of its kind |
| inconclusive | a wrong password, a missing right, a name that does not resolve, no way there, no descriptors left | `name` `local` `denied` `error` |

Inconclusive is never counted against a member; `problem` in `ubisip tiers` says what to do.
"""

ACTIONS = """\
## Actions

An action stands in a rule (`on_member_down = ["haproxy", "alert"]`) by its name; its parameters are `[actions.NAME]`.
`haproxy`, `dns-rfc2136` and `dns-cloudflare` send clients to the members that serve:

| `serve` | who | default for |
|---|---|---|
| `primary` | the member that a step before has made primary, else the one that says it is | mariadb, postgresql, redis |
| `first` | the first that can, in the order of the file; who serves stays while it can, unless `failback` | |
| `all` | all that can | all other kinds |

A pool takes three rules: one for each way in which a server leaves or comes back.

```toml
[tiers.web]
kind = "http"
on_member_down = ["haproxy", "alert"]   # the sick ones leave
on_degraded = ["haproxy"]               # the weak ones get half
on_healthy = ["haproxy"]                # all are back; without this rule nobody comes back by itself
```

Nobody is taken out before everybody has been asked once; who cannot be judged (a wrong password) stays as it is; when
nobody can serve, nothing is changed. After a promotion their failure is told and the plan goes on; else the plan is
tried again.
"""

SINKS = """\
## Sinks

A sink is a section `[sinks.NAME]`; it gets every notice, and in a rule its name sends one at that moment. A notice is
repeated until it is acknowledged or settled, so none is lost by a sink that is away for a while.
"""


@dataclass(frozen=True)
class Note:
    """What the docstrings do not say of one plug-in."""

    example: str
    facts: str = ""
    codes: str = ""
    text: str = ""


PROBES = {
    "sip": Note(
        'kind = "sip"\nmembers = [{ name = "tel1", site = "PA2", address = "sip:192.0.2.21:5060" }]',
        "`status` `server`",
        "`sip.503` (with Retry-After it is left alone that long) `sip.408`; warn: `slow` (more than half of the time-out)",
    ),
    "tcp": Note(
        'kind = "tcp"\nparameters = { send = "PING\\r\\n", expect = "PONG" }\n'
        'members = [{ name = "q1", site = "PA2", address = "192.0.2.31:6379" }]',
        "`banner`",
        "`tcp.answer`",
    ),
    "tls": Note(
        'kind = "tls"\ninterval = 3600.0\nparameters = { warn_days = 21.0 }\n'
        'members = [{ name = "www", site = "PA2", address = "www.example.net:443" }]',
        "`days_left` `not_after` `subject` `issuer` `version`",
        "`tls.expired` `tls.untrusted`; warn: `tls.expires`",
    ),
    "http": Note(
        'kind = "http"\nparameters = { path = "/health", body = "ok" }\n'
        'members = [{ name = "web1", site = "PA2", address = "http://192.0.2.61:80" }]',
        "`status` `server`",
        "`http.STATUS` `http.body` `http.header` `tls.untrusted`; warn: `slow`; inconclusive: `http.401` `http.403` "
        "`http.407`",
    ),
    "dns": Note(
        'kind = "dns"\n'
        'parameters = { name = "www.example.net", zone = "example.net", name_servers = ["192.0.2.53", "198.51.100.53"] }\n'
        'members = [{ name = "ns1", site = "PA2", address = "192.0.2.53" }]',
        "`rcode` `answer` `ttl` `serial` `serials`",
        "`dns.servfail` `dns.nxdomain` `dns.empty` `dns.answer` `dns.lame` `dns.no-soa`; warn: `dns.stale`; "
        "inconclusive: `dns.refused`",
    ),
    "postgresql": Note(
        'kind = "postgresql"\nuser = "watch"\npassword_file = "watch.password"\n'
        'members = [{ name = "pg1", site = "PA2", address = "192.0.2.41:5432" }]',
        "`role` `version` `timeline` `position` `applied` `lag` `receiver` `synchronous_standby_names` `replicas` (of "
        "each `name` `state` `sync_state` `lag`)",
        "`sql.SQLSTATE`, such as `sql.53300` (too many connections) or `sql.57P03` (it starts); warn: `replication` "
        "`lag`; inconclusive: `sql.28P01` `sql.28000` `sql.3D000` `sql.42501`",
        "The user: `CREATE ROLE watch LOGIN PASSWORD '...'; GRANT pg_monitor TO watch`. Who promotes is up to you "
        "(Patroni, or `exec`); `haproxy` and DNS follow the member that says it is primary.",
    ),
    "galera": Note(
        'kind = "galera"\nuser = "watch"\npassword_file = "watch.password"\n'
        'members = [{ name = "g1", site = "PA2", address = "192.0.2.51:3306" }]',
        "`ready` `cluster_status` `state` `size` `queue` `paused` `committed` `uuid`",
        "`galera.no-quorum` `galera.not-ready` `galera.STATE` `sql.NUMBER`; warn: `galera.queue` `galera.paused`; "
        "inconclusive: `galera.none` `sql.1045`",
        'Send writes to one node at a time: `serve = "first"` in the parameters of `haproxy`.',
    ),
    "redis": Note(
        'kind = "redis"\npassword_file = "redis.password"\n'
        'members = [{ name = "r1", site = "PA2", address = "192.0.2.71:6379" }]',
        "`role` `link` `lag` `position` `replicas` `loading` `saved` `version`",
        "`redis.loading` `redis.error`; warn: `replication` `lag` `redis.replicas` `redis.save`; inconclusive: "
        "`redis.auth`",
    ),
    "ldap": Note(
        'kind = "ldap"\nuser = "cn=watch,dc=example,dc=net"\npassword_file = "ldap.password"\n'
        'parameters = { base = "dc=example,dc=net" }\n'
        'members = [{ name = "ldap1", site = "PA2", address = "192.0.2.81:389" }]',
        "",
        "`ldap.CODE` `ldap.missing`; inconclusive: `ldap.49` (wrong password) `ldap.50` (missing right)",
    ),
    "amqp": Note(
        'kind = "amqp"\nuser = "watch"\npassword_file = "amqp.password"\nparameters = { queues = { jobs = 1000 } }\n'
        'timeout = 2.0\nmembers = [{ name = "mq1", site = "PA2", address = "192.0.2.91:5672" }]',
        "`queues` (messages in each)",
        "`amqp.blocked` (a memory or disk alarm) `amqp.queue-missing` `amqp.error`; warn: `amqp.queue`; inconclusive: "
        "`amqp.auth` `amqp.rights`",
    ),
    "haproxy": Note(
        'kind = "haproxy"\nparameters = { backend = "web" }\n'
        'members = [{ name = "lb1", site = "PA2", address = "/run/haproxy/admin.sock" }]',
        "`backends` `servers` `sessions`",
        "`haproxy.no-server`; warn: `haproxy.server-down`; inconclusive: `haproxy.backend` `haproxy.rights`",
    ),
    "etcd": Note(
        'kind = "etcd"\nmembers = [{ name = "m1", site = "PA2", address = "http://192.0.2.11:2379" }]',
        "`role` `leader` `member` `cluster` `term` `index` `db_size` `version` `errors`",
        "`etcd.no-leader` `etcd.no-space` `etcd.unhealthy` `etcd.error`; inconclusive: `etcd.auth`",
    ),
    "exec": Note(
        'kind = "exec"\ntimeout = 5.0\n'
        'parameters = { command = ["/usr/lib/nagios/plugins/check_imap", "-H", "{host}", "-p", "{port}"] }\n'
        'members = [{ name = "imap1", site = "PA2", address = "192.0.2.99:143" }]',
        "`code` `output` `figures`",
        "nagios: `exec.2`; warn: `exec.1`; inconclusive: `exec.3` and any other. ocf: `exec.1` `exec.7` `exec.9`; 8 is "
        "the role `primary`; inconclusive: any other",
    ),
    "file-age": Note(
        'kind = "file-age"\ninterval = 60.0\nparameters = { fail_after = 93600.0, warn_after = 90000.0, min_size = 1000 }\n'
        'members = [{ name = "dump", site = "PA2", address = "/var/backups/db-*.dump.gz" }]',
        "`age` `file` `size` `files`",
        "`file.missing` `old`; warn: `old`; inconclusive: `file.many` `file.hangs`",
    ),
    "push": Note(
        'kind = "push"\nparameters = { fail_after = 93600.0, record_file = "state/jobs.json" }\n'
        'members = [{ name = "nightly", site = "PA2", address = "the export of the night" }]',
        "`outcome` `text` `age`",
        "`push.failed` `push.never` `old`; warn: `push.warning` `old`; inconclusive: `push.unknown`",
        "The job: `curl -X POST http://127.0.0.1:8080/api/v1/push/jobs/nightly`, or with a body "
        '`{"outcome": "failed", "text": "disk full"}` (`ok`, `warning`, `failed`). Only the gateway that is told knows: '
        "tell each of them that watches.",
    ),
}

ACTION_NOTES = {
    "haproxy": Note(
        '[actions.haproxy]\nsockets = ["/run/haproxy/admin.sock", "192.0.2.12:9999"]\nbackend = "database"',
        text="Each HAProxy keeps the epoch in a variable of its process (`proc.ubisip_epoch`) and so refuses a "
        "controller that has been overtaken. One that cannot be reached is told of as stale; those that can are "
        "turned, and at least one must be. It is read with `show servers state`, and looked at afterwards with "
        "`show stat`. An example is in `examples/haproxy`, with the agent check, which holds an HAProxy that was away.",
    ),
    "dns-rfc2136": Note(
        '[actions.dns-rfc2136]\nserver = "192.0.2.53"\nname_servers = ["198.51.100.53"]\nzone = "example.net"\n'
        'names = ["db.example.net"]\nkey_name = "ubisip."\nkey_file = "tsig.key"',
        text='BIND: `zone "example.net" { allow-update { key "ubisip."; }; };`. The epoch is the TXT record '
        "`_ubisip.NAME`. It is done when every name server answers the new values with the newest serial; one that "
        "stays behind is named.",
    ),
    "dns-cloudflare": Note(
        '[actions.dns-cloudflare]\nzone = "0123456789abcdef0123456789abcdef"\ntoken_file = "cloudflare.token"\n'
        'names = ["www.example.net"]\nserve = "first"\n'
        'values = { "provider-1" = ["192.0.2.1"], "provider-2" = ["198.51.100.2"] }',
        text="After 429 (for as long as it says, 5 s at most) and 5xx it asks again within the 20 s of the step.",
    ),
    "exec": Note(
        '[actions.move-address]\ntype = "exec"\ncommand = ["/usr/local/sbin/move-address"]\nproof = "G"',
        text="In its environment: `UBISIP_PLAN` `_KEY` `_EPOCH` `_TIER` `_KIND` `_VERDICT` `_ACCUSED` `_PRIMARY` `_WANTED` "
        "`_REQUEST` `_ACTION` `_DO` `_WHY`; all of it and the members as JSON on its standard input. Of our own "
        "environment it gets `PATH`, `HOME`, `LANG`, `LC_ALL` and `TZ` only.",
    ),
    "http-request": Note(
        '[actions.cloud]\ntype = "http-request"\nurl = "https://cloud.example.net/switch"\nsecret_file = "cloud.secret"',
        text="The body is what `exec` gets as JSON. Signed: see the sink `webhook`. Tried again after 408, 425, 429, 500, "
        "502, 503, 504 and when there is no answer.",
    ),
}

SINK_NOTES = {
    "alert": Note('[sinks.alert]\nalertmanagers = ["http://127.0.0.1:9093", "http://192.0.2.13:9093"]'),
    "webhook": Note(
        '[sinks.webhook]\nurl = "https://chat.example.net/hook"\nsecret_file = "hook.secret"',
        text="The body: `key` `status` (firing, resolved) `severity` `title` `text` `labels` `starts_at` `ends_at`. "
        "`X-Ubisip-Signature` is `sha256=` and the HMAC of `X-Ubisip-Timestamp`, a dot and the body.",
    ),
    "mail": Note(
        '[sinks.mail]\nserver = "mail.example.net"\nsender = "ubisip@example.net"\nrecipients = ["noc@example.net"]'
    ),
    "amqp": Note('[sinks.amqp]\nurl = "amqp://192.0.2.91:5672/"\nuser = "ubisip"\npassword_file = "amqp.password"'),
    "log": Note("[sinks.log]"),
}


def page() -> str:
    """The reference page."""
    parts = [HEADER, "\n## Probes\n\n", *_all(plugins.PROBES, PROBES, "tiers.NAME")]
    parts += [ACTIONS, "\n", *_all(plugins.ACTIONS, ACTION_NOTES, "")]
    parts += [SINKS, "\n", *_all(plugins.SINKS, SINK_NOTES, "")]
    return "".join(parts).rstrip("\n") + "\n"


def _all(group: str, notes: dict[str, Note], table: str) -> Iterator[str]:
    for name, note in notes.items():
        plugin = plugins.load(group, name)
        yield f"### `{name}`\n\n{_first(plugin)}\n\n"
        if note.text:
            yield textwrap.fill(note.text, 120, break_long_words=False, break_on_hyphens=False) + "\n\n"
        yield _rows(plugin)
        for title, text in (("Facts", note.facts), ("Codes", note.codes)):
            if text:
                yield textwrap.fill(f"{title}: {text}.", 120, break_long_words=False, break_on_hyphens=False) + "\n\n"
        head = f"[{table}]\n" if table else ""
        yield f"```toml\n{head}{note.example}\n```\n\n"


def _first(plugin: Any) -> str:
    """The docstring of the plug-in, after that of its module."""
    module = inspect.getdoc(sys.modules[plugin.__module__]) or ""
    text = module.partition(": ")[2]
    own = " ".join((inspect.getdoc(plugin) or "").split())
    paragraphs = [" ".join(one.split()) for one in text.split("\n\n")]
    paragraphs[0] = paragraphs[0][:1].upper() + paragraphs[0][1:]
    filled = (textwrap.fill(one, 120, break_long_words=False, break_on_hyphens=False) for one in (*paragraphs, own))
    return "\n\n".join(filled).replace("``", "`")


def parameters_of(plugin: Any) -> Any:
    """The dataclass of its parameters, which stands beside it."""
    own = plugin.__name__
    for end in ("Probe", "Action", "Sink"):
        own = own.removesuffix(end)
    return getattr(sys.modules[plugin.__module__], f"{own}Parameters")


def _rows(plugin: Any) -> str:
    table = parameters_of(plugin)
    kinds, docs = field_kinds(table), docs_by_field(table)
    rows = [
        _cells(f"`{field.name}`", describe(kinds[field.name]), _default(field, kinds[field.name]), docs[field.name])
        for field in dataclasses.fields(table)
    ]
    return "| parameter | value | default | |\n|---|---|---|---|\n" + "".join(rows) + "\n" if rows else ""


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default(field: dataclasses.Field[Any], kind: Any) -> str:
    if REQUIRED in unwrap(kind)[1]:
        return "required"
    if field.default in ("", None, (), dataclasses.MISSING):
        return ""
    return f"`{json.dumps(field.default)}`"


def docs_by_field(table: Any) -> dict[str, str]:
    """The docstring under each field, those of a base class included; empty where a name says all."""
    docs = {field.name: "" for field in dataclasses.fields(table)}
    for one in reversed(table.__mro__[:-1]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
        body = tree.body[0].body  # type: ignore[attr-defined]
        for field, after in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[field.target.id] = " ".join(str(after.value.value).replace("``", "`").split())  # type: ignore[union-attr]
    return docs


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
