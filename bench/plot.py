# SPDX-License-Identifier: Apache-2.0
"""The picture of docs/performance.md: CPU, memory and own instructions for each call, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

OPENSIPS_OCTETS = 1180
"""What OpenSIPS publishes of its own usrloc."""
COLOURS = {
    "opensips": "#8a6fb0",
    "relay": "#9aa5b1",
    "kamailio": "#d98e04",
    "kamailio-qm": "#e8c07d",
    "ubisip": "#1f6feb",
}
LABELS = {
    "opensips": "OpenSIPS\n(as published)",
    "relay": "bare relay\n(parses nothing)",
    "kamailio": "Kamailio\n(tlsf)",
    "kamailio-qm": "Kamailio\n(default)",
}


Spread = Mapping[str, Sequence[float]]
"""What each round of a candidate gave."""


def bars(axes: Axes, title: str, values: Mapping[str, float], spread: Spread | None = None) -> None:
    """One panel: a bar for each candidate with its value beside it, and the spread of its rounds as a whisker."""
    names = list(values)
    heights = [values[name] for name in names]
    axes.barh(names, heights, color=[COLOURS.get(name, "#666666") for name in names], height=0.62)
    top = max(heights)
    for place, name in enumerate(names):
        right = values[name]
        if spread:
            low, right = min(spread[name]), max(spread[name])
            axes.plot([low, right], [place, place], color="#222222", linewidth=1.2)
            top = max(top, right)
        value = f"{values[name]:,.0f}"
        axes.annotate(value, (right, place), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xlim(0, top * 1.22)
    axes.set_yticks(range(len(names)), [LABELS.get(name, name) for name in names], fontsize=9)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_title(title, fontsize=10, loc="left", pad=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, colors="#666666")


def draw(sidebyside: Mapping[str, Any], instructions: Mapping[str, float], target: Path) -> None:
    """Write the picture to *target*; *instructions* may be empty, its panel is then left out."""
    sound = {name: one for name, one in sidebyside["summary"].items() if "us_per_call" in one}
    spread = {
        name: [figures[name]["us_per_call"] for figures in sidebyside["rounds"] if not figures[name]["void"]]
        for name in sound
    }
    panels = 3 if instructions else 2
    with pyplot.rc_context({"svg.hashsalt": "ubisip", "font.family": "DejaVu Sans"}):
        figure, places = pyplot.subplots(1, panels, figsize=(4.0 * panels, 2.6), layout="constrained")
        rate = f"{sidebyside['load']['rate']:,} calls/s"
        cpu = {name: one["us_per_call"] for name, one in sound.items()}
        bars(places[0], f"CPU microseconds a call, {rate}", cpu, spread)
        memory = {name: one["pss_mib"] for name, one in sound.items() if name != "relay"}
        bars(places[1], f"MiB of memory after {sidebyside['load']['calls']:,} calls", memory)
        if instructions:
            bars(places[2], "own instructions a call (kernel excluded)", instructions)
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None, dpi=110)
        pyplot.close(figure)


def draw_agents(register: Mapping[str, Any], target: Path) -> None:
    """Write the picture of the registrars to *target*."""
    sound = {name: one for name, one in register["summary"].items() if one and "us_per_registration" in one}
    spread = {
        name: [figures[name]["us_per_call"] for figures in register["rounds"] if not figures[name]["void"]]
        for name in sound
    }
    with pyplot.rc_context({"svg.hashsalt": "ubisip", "font.family": "DejaVu Sans"}):
        figure, places = pyplot.subplots(1, 2, figsize=(8.0, 2.2), layout="constrained")
        rate = f"{register['load']['rate']:,}/s"
        cpu = {name: one["us_per_registration"] for name, one in sound.items()}
        bars(places[0], f"CPU microseconds a registration, {rate}", cpu, spread)
        held = {"opensips": OPENSIPS_OCTETS, "ubisip": register["memory"]["octets_a_binding"]}
        bars(places[1], f"octets a binding, of {register['memory']['bindings']:,}", held)
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None, dpi=110)
        pyplot.close(figure)
