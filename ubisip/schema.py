# SPDX-License-Identifier: Apache-2.0
"""Read the tables of a TOML file into frozen dataclasses whose annotations say what is allowed.

Fields may be str, int, float, bool, Literal, tuple[X, ...], Mapping[str, X], another dataclass, ``X | None`` or Any;
Annotated adds REQUIRED, AT_LEAST_ONE, Between, Matching, From, Expected or Prefixed. Every field has a default. Reading
never stops at a mistake: it is noted in the Report, and the field keeps its default.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ubisip.errors import Mistake
from ubisip.toml_lines import MAX_DEPTH, Path

REQUIRED = "required"
"""Marks a field that the file must give; its default only stands in while mistakes are gathered."""
AT_LEAST_ONE = "at least one"
"""Marks an array that must not be empty when it is given."""

_T = TypeVar("_T")
_NOTHING = object()
_MAX_SHOWN = 60  # characters of a wrong value that a mistake repeats
_KINDS: dict[Any, str] = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


class Unfit(ValueError):
    """A value that does not fit its field; the text is what was expected."""


@dataclass(frozen=True, slots=True)
class Between:
    """Bounds of a number; *above* leaves the lower one out."""

    low: float
    high: float
    above: bool = False

    def __str__(self) -> str:
        return f"{'above' if self.above else 'from'} {self.low} to {self.high}"

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)


@dataclass(frozen=True, slots=True)
class Matching:
    """A string that a pattern matches as a whole."""

    pattern: str
    expected: str


@dataclass(frozen=True, slots=True)
class From:
    """A string that *parse* turns into the field's value; its ValueError says what was expected."""

    parse: Callable[[str], object]
    expected: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What to say is expected, where the kind alone would say too little."""

    expected: str


@dataclass(frozen=True, slots=True)
class Prefixed:
    """A Mapping field made of all keys of the table that begin with *prefix*, by what follows it."""

    prefix: str


class Report:
    """The mistakes found so far, each with its line."""

    def __init__(self, file: str, lines: Mapping[Path, int]) -> None:
        self.file = file
        self.lines = lines
        self.mistakes: list[Mistake] = []
        self.warnings: list[str] = []
        """What is odd and no mistake, each with its line."""
        self._paths: set[Path] = set()

    def line(self, path: Path) -> int:
        """Line of *path*, or of the nearest table around it that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def warn(self, path: Path, text: str) -> None:
        self.warnings.append(f"{self.file}:{self.line(path)}: {path_text(path)}: {text}")

    def add(self, path: Path, expected: str, found: object = _NOTHING) -> None:
        self.note(path, expected, show(found))

    def note(self, path: Path, expected: str, found: str) -> None:
        """As :meth:`add`, of a value that is told in words already."""
        self._paths.add(path)
        self.mistakes.append(Mistake(self.line(path), path_text(path), expected, found, self.file))

    def broken(self, *path: str | int) -> bool:
        """Whether a mistake is known at *path* or below: what was read from there is not what was written."""
        return any(known[: len(path)] == path for known in self._paths)


def path_text(path: Path) -> str:
    """``servers[2].uri``; keys that TOML would quote are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            key = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part, ensure_ascii=False)
            text += f".{_cut(key)}" if text else _cut(key)
    return text


def show(value: object) -> str:
    """A value of the file in a few words."""
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array" if value else "an empty array"
    if isinstance(value, int) and value.bit_length() > 128:
        return "a huge number"
    if isinstance(value, str | bool):
        return _cut(json.dumps(value, ensure_ascii=False))
    return str(value)


def listed(names: Iterable[str]) -> str:
    """Names for a sentence: ``a, b, c``."""
    return ", ".join(names) or "none"


def nearest(name: str, known: Iterable[str]) -> str:
    """``"policy"``-like hint at the known name nearest to *name*, or all of them when none is near."""
    known = list(known)
    close = difflib.get_close_matches(name[:_MAX_SHOWN], known, n=1)
    return f'(nearest: "{close[0]}")' if close else f"(one of {listed(known)})"


def printable(text: str) -> str:
    """*text* with what a terminal would not show, or would obey, escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _cut(text: str) -> str:
    return printable(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "...")


def field_kinds(table: type[Any]) -> dict[str, Any]:
    """The annotations of a dataclass by field, resolved, with what Annotated adds."""
    hints = get_type_hints(table, include_extras=True)
    return {field.name: hints[field.name] for field in fields(table)}


def unwrap(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """A kind without Annotated and ``| None``, and the marks that Annotated added."""
    marks: tuple[Any, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *rest = get_args(kind)
        marks = tuple(rest)
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (choice for choice in get_args(kind) if choice is not NoneType)
    return kind, marks


def describe(kind: Any) -> str:
    """What a kind of field expects, for mistakes and for the reference page."""
    kind, marks = unwrap(kind)
    for mark in marks:
        if isinstance(mark, Matching | From | Expected):
            return mark.expected
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if is_dataclass(item):
            return "an array of tables"
        return f"an array{' of at least one' if AT_LEAST_ONE in marks else ''}, each {describe(item)}"
    if kind not in _KINDS:
        return "a table"
    return " ".join([_KINDS[kind], *(str(mark) for mark in marks if isinstance(mark, Between))])


def read_table(table: type[_T], value: object, path: Path, report: Report) -> _T:
    """*value* as the dataclass *table*; the mistakes go to *report*.

    :raises Unfit: *value* is no table at all.
    """
    if not isinstance(value, dict):
        raise Unfit("a table")
    kinds = dict(field_kinds(table))
    prefixes = {mark.prefix: name for name in kinds for mark in unwrap(kinds[name])[1] if isinstance(mark, Prefixed)}
    good: dict[str, Any] = {}
    for prefix, name in prefixes.items():
        good[name] = _read_prefixed(prefix, kinds.pop(name), value, path, report)
    for key in value:
        if key not in kinds and not key.startswith(tuple(prefixes)):
            report.add((*path, key), f"a known {'key' if path else 'section'} {nearest(key, kinds)}", value[key])
    for name, kind in kinds.items():
        if name in value:
            _keep(good, name, kind, value[name], (*path, name), report)
        elif REQUIRED in unwrap(kind)[1]:
            report.add((*path, name), describe(kind))
    return table(**good)


def _read_prefixed(prefix: str, kind: Any, value: dict[str, object], path: Path, report: Report) -> Mapping[str, Any]:
    base, _ = unwrap(kind)
    items = _read_mapping(base, {key: value[key] for key in value if key.startswith(prefix)}, path, report)
    return MappingProxyType({key.removeprefix(prefix): item for key, item in items.items()})


def _keep(into: dict[str, Any], key: str, kind: Any, value: object, path: Path, report: Report) -> None:
    """Put *value*, read as *kind*, into *into*; note the mistake when it does not fit."""
    try:
        into[key] = _read(kind, value, path, report)
    except Unfit as unfit:
        report.add(path, str(unfit), value)


def _read(kind: Any, value: object, path: Path, report: Report) -> Any:
    base, marks = unwrap(kind)
    if is_dataclass(base) and not any(isinstance(mark, From) for mark in marks):
        return read_table(base, value, path, report)  # type: ignore[arg-type]
    if base is Any:
        return freeze(value)
    if get_origin(base) is tuple:
        return _read_array(kind, value, path, report)
    if get_origin(base) is Mapping:
        return _read_mapping(base, value, path, report)
    return _read_scalar(kind, value)


def _read_array(kind: Any, value: object, path: Path, report: Report) -> tuple[Any, ...]:
    base, marks = unwrap(kind)
    if not isinstance(value, list) or (AT_LEAST_ONE in marks and not value):
        raise Unfit(describe(kind))
    item_kind = get_args(base)[0]
    items: dict[str, Any] = {}
    for index, item in enumerate(value):
        if is_dataclass(item_kind):  # what is no table keeps its place, so that the paths of the others hold
            items[str(index)] = item_kind()  # type: ignore[operator]
        _keep(items, str(index), item_kind, item, (*path, index), report)
    return tuple(items.values())


def _read_mapping(base: Any, value: object, path: Path, report: Report) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Unfit("a table")
    key_kind, item_kind = get_args(base)
    keys: dict[str, Any] = {}
    items: dict[str, Any] = {}
    for key, item in value.items():
        _keep(keys, key, key_kind, key, (*path, key), report)
        _keep(items, key, item_kind, item, (*path, key), report)
    return MappingProxyType(items)


def _read_scalar(kind: Any, value: object) -> Any:
    base, marks = unwrap(kind)
    if get_origin(base) is Literal:
        return _read_choice(kind, value)
    for mark in marks:
        if isinstance(mark, From):
            return _read_parsed(mark, value)
        if isinstance(mark, Matching) and not (isinstance(value, str) and re.fullmatch(mark.pattern, value)):
            raise Unfit(mark.expected)
        if isinstance(mark, Between) and not (_is_number(value, base) and mark.holds(value)):  # type: ignore[arg-type]
            raise Unfit(describe(kind))
    if not (_is_number(value, base) if base in (int, float) else isinstance(value, base)):
        raise Unfit(describe(kind))
    return base(value)


def _is_number(value: object, base: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or base is float


def _read_choice(kind: Any, value: object) -> Any:
    choices = get_args(unwrap(kind)[0])
    if value in choices and isinstance(value, str):
        return value
    close = nearest(value, choices) if isinstance(value, str) else ""
    raise Unfit(f"{describe(kind)} {close}" if close.startswith("(nearest") else describe(kind))


def _read_parsed(mark: From, value: object) -> object:
    if not isinstance(value, str):
        raise Unfit(mark.expected)
    try:
        return mark.parse(value)
    except ValueError as error:
        raise Unfit(str(error)) from None


def freeze(value: object, depth: int = MAX_DEPTH) -> Any:
    """A free value with its tables as read-only mappings and its arrays as tuples.

    :raises Unfit: it is nested deeper than *depth*.
    """
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        raise Unfit(f"values nested at most {MAX_DEPTH} deep")
    if isinstance(value, dict):
        return MappingProxyType({key: freeze(item, depth - 1) for key, item in value.items()})
    return tuple(freeze(item, depth - 1) for item in value)
