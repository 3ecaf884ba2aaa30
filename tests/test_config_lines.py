# SPDX-License-Identifier: Apache-2.0
"""The line of every key and array item, whatever way TOML lets one write them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ubisip.toml_lines import Path, key_lines


def leaves(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every value of a document that is neither a table nor an array, with its path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


def check_numbers(text: str) -> int:
    """Each number of *text*, all different, is at the line where it is seen; returns how many there are."""
    lines = key_lines(text)
    seen = {}
    for number, line in enumerate(text.split("\n"), 1):
        for word in line.replace(",", " ").replace("]", " ").replace("}", " ").replace("[", " ").split():
            if word.isdigit():
                seen[int(word)] = number
    numbers = [(path, value) for path, value in leaves(tomllib.loads(text)) if type(value) is int]
    assert {path: lines[path] for path, _ in numbers} == {path: seen[value] for path, value in numbers}
    return len(numbers)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a = 101\n\n# c\nb = 102 # 999\n", 2),
        ("a = [ 101, # one\n  102,\n\n  103 ]\nb = 104", 4),
        ("a = [\n  [ 101, 102 ],\n  [\n  103 ],\n  [], # ]\n]\nb = 104", 4),
        ("a = { x = 101, y = { z = 102 }, w = [ 103,\n104 ] }\nb = 105", 5),
        ("a.b.c = 101\na.b.d = 102\na . \"e\" . 'f g' = 103\n", 3),
        ('"a.b" = 101\n\'c = d\' = 102\n"\\u0041\\"" = 103\n"#" = 104\n', 4),
        ("[t]\na = 101\n[t.u]\nb = 102\n[ x . 'y' ]\nc = 103\n", 3),
        (
            "[[s]]\na = 101\n[[s]]\na = 102\n[s.t]\nb = 103\n[[s.u]]\nc = 104\n[[s.u]]\nc = 105\n[[s]]\n[s.t]\nb = 106",
            6,
        ),
        ("a = \"\"\"\nx = 1\n[t]\n\"\"\"\nb = 101\nc = '''\n]]'\n''''\nd = 102", 2),
        ('a = """x""""\nb = 101\nc = """"y"""""\nd = 102', 2),
        ('a = "\\"#"\nb = 101\nc = \'\\\'\nd = 102\ne = ""\nf = """"""\ng = 103', 3),
        ('a = [ "]", \'}\', """\n,\n""", 101,\n102 ]\nb = 103', 3),
        ("a = 1979-05-27 07:32:00\nb = [ 1979-05-27 07:32:00Z, 101,\n102 ]\nc = 103", 3),
        ("a = [ { x = 101 },\n  { x = 102 },\n]\nb = [ ]\nc = { }\nd = 103", 3),
        ("a = 101\r\nb = [ 102,\r\n103 ]\r\n", 3),
    ],
)
def test_each_number_is_at_its_line(text: str, numbers: int) -> None:
    assert check_numbers(text) == numbers


def test_tables_stand_where_they_are_named_first() -> None:
    text = "\n[a.b]\n[a]\nc.d = 1\n[[s]]\n[[s]]\nx = []\n"
    expected: dict[Path, int] = {
        ("a",): 2, ("a", "b"): 2, ("a", "c"): 4, ("a", "c", "d"): 4,
        ("s",): 5, ("s", 0): 5, ("s", 1): 6, ("s", 1, "x"): 7,
    }  # fmt: skip
    assert key_lines(text) == expected


def test_a_key_of_many_dots_costs_little() -> None:
    lines = key_lines(".".join("a" * 500) + " = [" + "1, " * 500 + "]")
    assert max(map(len, lines)) == 16


GAP = st.sampled_from(["", " ", "\n", ' # ] } , [ = "\n', "\n\n\t"])
DISTRACTION = st.sampled_from([
    '"]"', "'}'", '""', "'''\n[x]\n'''", '"""\na = 1 # \\""""', "1.5", "true", "-inf", "1979-05-27 07:32:00",
])  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A TOML text whose keys and numbers are all different, in any of the ways to write it."""
    count = 100

    def fresh() -> int:
        nonlocal count
        count += 1
        return count

    def key() -> str:
        number = fresh()
        return draw(
            st.sampled_from([f"k{number}", f'"k {number}"', f"'k.{number}'", f'k{number}."]"', f"k{number} . b"])
        )

    def value(depth: int) -> str:
        kinds = ["number", "text", "array", "table"] if depth < 3 else ["number", "text"]
        kind = draw(st.sampled_from(kinds))
        if kind == "array":
            items = [f"{draw(GAP)}{value(depth + 1)}{draw(GAP)}" for _ in range(draw(st.integers(0, 3)))]
            last = draw(st.sampled_from([",", ""])) if items else ""
            return "[" + ",".join(items) + last + draw(GAP) + "]"
        if kind == "table":
            return "{ " + ", ".join(f"{key()} = {value(depth + 1)}" for _ in range(draw(st.integers(0, 3)))) + " }"
        return f" {fresh()} " if kind == "number" else draw(DISTRACTION)

    def statement() -> str:
        header = draw(st.sampled_from(["", "", "", "[[s]]", "[[s.t]]", f"[x{fresh()}]", f"[s.'y{fresh()}']"]))
        return header or f"{key()} = {value(0)}"

    statements = ["[[s]]", *(statement() for _ in range(draw(st.integers(0, 12))))]
    ends = st.sampled_from(["\n", " # = [\n", "\n\n"])
    return "".join(line + draw(ends) for line in statements)


@given(documents())
def test_each_number_of_any_document_is_at_its_line(text: str) -> None:
    check_numbers(text)


@given(documents())
def test_every_key_and_item_has_a_line(text: str) -> None:
    lines = key_lines(text)
    for path, _ in leaves(tomllib.loads(text)):
        assert [path[:depth] for depth in range(1, len(path) + 1) if path[:depth] not in lines] == []
