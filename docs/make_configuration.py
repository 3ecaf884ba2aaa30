# SPDX-License-Identifier: Apache-2.0
"""Write docs/configuration.md from the docstrings under the fields of ubisip/sections.py and ubisip/config.py.

Run it as ``python docs/make_configuration.py``.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from ubisip.config import Config
from ubisip.schema import REQUIRED, Prefixed, describe, field_kinds, unwrap
from ubisip.sections import Sections

PAGE = Path(__file__).with_name("configuration.md")
EXAMPLE = Path(__file__).parents[1] / "examples" / "platform.toml"

HEADER = """\
# Configuration

<!-- Made by docs/make_configuration.py from the docstrings in ubisip/sections.py and ubisip/config.py: edit those. -->

One TOML file for the whole platform, the same on every gateway; `--node` says which gateway a process is.
`ubisip check FILE` names every mistake with its line, its path and what was expected. Mistakes are also:

- a key or section that is not listed here;
- a name that two carriers, servers or gateways have; a site that is none of `[sites]`;
- two listeners at one address (0.0.0.0 excepted: every machine has its own), a peer at a gateway's own address;
- a peer of a transport or network that no gateway listens on, a `listener` that is none;
- a `tls:` or `wss:` listener without a section `[tls]`; certificates, keys and authorities that cannot be read or do
  not fit together (one that has expired, or will within 14 days, is a warning);
- a source that two peers claim. A port is more specific than none and comes first. Between carriers or between servers,
  an address comes before the network around it; between a carrier and a server that too is a mistake;
- weight 0 on every carrier or on every server;
- two gateways without `key_file`;
- a tier of a kind that has no probe, a rule for what is no verdict on its kind, or that names no action and no sink, a
  parameter that a plug-in does not take;
- several gateways that act upon tiers through `sqlite:` without the file that they share.

File names are relative to the folder of the file. A reload takes the whole file or nothing of it.

"""


def page() -> str:
    """The reference page."""
    parts = [HEADER, *_sections(), _example(), _python()]
    return "".join(parts).rstrip("\n") + "\n"


def _sections() -> Iterator[str]:
    notes = _docs_by_field(Sections)
    for name, kind in field_kinds(Sections).items():
        base, marks = unwrap(kind)
        yield from _section(name, base, REQUIRED in marks, notes.get(name, ""))


def _section(name: str, base: Any, required: bool, note: str) -> Iterator[str]:
    """One section of the file, or those nested in it; *note* is for one of free parameters."""
    heading, table = _heading(name, base)
    if not isinstance(table, type):
        yield f"## `{heading}`\n\n{note}\n\n"
        return
    kinds = field_kinds(table)
    nested = [(key, kind) for key, kind in kinds.items() if dataclasses.is_dataclass(kind)]
    for key, kind in nested:
        yield from _section(f"{name}.{key}", kind, False, "")
    if not nested:
        yield f"## `{heading}`\n\n{inspect.getdoc(table)}{' Required.' if required and table is base else ''}\n\n"
        yield _rows(table, kinds)


def _heading(name: str, base: Any) -> tuple[str, Any]:
    """How TOML heads the tables of a section, and the dataclass of one."""
    if get_origin(base) is tuple:
        return f"[[{name}]]", get_args(base)[0]
    if get_origin(base) is Mapping:
        return f"[{name}.NAME]", get_args(base)[1]
    return f"[{name}]", base


def _rows(table: Any, kinds: Mapping[str, Any]) -> str:
    docs = _docs_by_field(table)
    rows = [_row(field, kinds[field.name], docs) for field in dataclasses.fields(table)]
    return "| key | value | default | |\n|---|---|---|---|\n" + "".join(rows) + "\n" if rows else ""


def _row(field: dataclasses.Field[Any], kind: Any, docs: dict[str, str]) -> str:
    prefixes = [mark.prefix for mark in unwrap(kind)[1] if isinstance(mark, Prefixed)]
    key = f"{prefixes[0]}EVENT" if prefixes else field.name
    allowed = describe(get_args(unwrap(kind)[0])[1]) if prefixes else describe(kind)
    return _cells(f"`{key}`", allowed, _default(field, kind), docs.get(field.name, ""))


def _cells(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default(field: dataclasses.Field[Any], kind: Any) -> str:
    """The default as TOML; what has none to show is left empty (its docstring tells)."""
    if REQUIRED in unwrap(kind)[1]:
        return "required"
    if field.default in ("", None, (), dataclasses.MISSING):
        return ""
    return f"`{json.dumps(field.default)}`"


def _example() -> str:
    return f"## Example\n\n`examples/platform.toml`:\n\n```toml\n{EXAMPLE.read_text('utf-8')}```\n\n"


def _python() -> str:
    rows = [_cells(f"`{name}`", f"`{kind}`", doc) for name, (kind, doc) in _annotated(Config).items()]
    return (
        "## In Python\n\n`ubisip.Config.load(path)` raises `ConfigError` whose `mistakes` are all there are.\n\n"
        f"{inspect.getdoc(Config)}\n\n| attribute | type | |\n|---|---|---|\n{''.join(rows)}"
    )


def _docs_by_field(table: type[Any]) -> dict[str, str]:
    """The docstring under each field, those of base classes too."""
    docs: dict[str, str] = {}
    for owner in reversed(table.__mro__[:-1]):
        docs |= {name: doc for name, (_, doc) in _annotated(owner).items()}
    return docs


def _annotated(owner: type[Any]) -> dict[str, tuple[str, str]]:
    """Annotation and docstring of the fields that a class names itself, from its source."""
    body = _class(owner).body
    found = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = (ast.unparse(statement.annotation), _docstring(following))
    return found


def _class(owner: type[Any]) -> ast.ClassDef:
    tree = ast.parse(inspect.getsource(inspect.getmodule(owner) or owner))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner.__name__)


def _docstring(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
