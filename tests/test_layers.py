# SPDX-License-Identifier: Apache-2.0
"""Imports point one way (DESIGN section 3): no module imports from a layer below its own, lazily, or in a circle."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from ubisip.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ubisip"
CORE = ROOT / "ext" / "ubisip" / "core"
LAYERS = ["core", "health", "agents", "failover", "transport", "store", "admin", "lab", "proxy"]
"""From the top; the modules directly under ubisip/ (errors, config, platform...) stand above them all."""
CIMPORT = re.compile(r"^\s*(?:from\s+(ubisip[\w.]*)\s+c?import\s+\(?([\w, ]*)|c?import\s+(ubisip[\w.]+))", re.MULTILINE)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(module: str) -> int:
    """0 for the modules directly under ubisip/, else 1 and up."""
    parts = module.split(".")
    return 1 + LAYERS.index(parts[1]) if parts[1] in LAYERS else 0


def imports_of(tree: ast.AST) -> Iterator[str]:
    """The ubisip modules that *tree* imports; a name imported from a package counts as its module when it is one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "ubisip")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ubisip":
            yield from source_modules(node.module or "", [alias.name for alias in node.names])


def source_modules(module: str, names: list[str]) -> Iterator[str]:
    for name in names:
        yield f"{module}.{name}" if f"{module}.{name}" in MODULES else module


def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"ubisip"}))
def test_a_module_imports_only_from_its_layer_and_those_above(module: str) -> None:
    imported = set(imports_of(parsed(module)))
    assert "ubisip" not in imported, "the package's own list of names is for users; import the module that has it"
    below = sorted(other for other in imported if layer_of(other) > layer_of(module))
    assert not below


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_at_its_top(module: str) -> None:
    tree = parsed(module)
    at_top = {id(node) for node in tree.body}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not [node.lineno for node in imports if id(node) not in at_top], "imports below the top of the file"
    assert not [node.lineno for node in imports if isinstance(node, ast.ImportFrom) and node.level], "relative imports"
    assert not [node.lineno for node in ast.walk(tree) if imports_by_name(node)], "imports by a call"


def imports_by_name(node: ast.AST) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return name in {"__import__", "import_module", "run_module"}


def test_no_import_goes_in_a_circle() -> None:
    graph = {module: set(imports_of(parsed(module))) - {module} for module in MODULES}
    assert set(in_order(graph)) >= set(MODULES)


def test_no_cimport_of_the_core_goes_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in [*CORE.glob("*.pyx"), *CORE.glob("*.pxd")]:
        text = path.read_text("utf-8")
        module = f"ubisip.core.{path.stem}"
        found = {match for groups in CIMPORT.findall(text) for match in cimported(*groups)}
        graph.setdefault(module, set()).update(found - {module})
    assert in_order(graph)


def cimported(module: str, names: str, whole: str) -> Iterator[str]:
    if module == "ubisip.core":
        yield from (f"ubisip.core.{name.strip().split(' ')[0]}" for name in names.split(",") if name.strip())
    else:
        yield module or whole


def in_order(graph: dict[str, set[str]]) -> list[str]:
    """The modules, each after those it imports."""
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_core_imports_from_nothing_below_it() -> None:
    found = {
        name
        for path in CORE.glob("*.p[yx]*")
        for groups in CIMPORT.findall(path.read_text("utf-8"))
        for name in cimported(*groups)
    }
    assert not sorted(name for name in found if layer_of(name) > layer_of("ubisip.core"))


def test_the_version_is_the_one_of_the_package() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION
