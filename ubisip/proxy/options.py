# SPDX-License-Identifier: Apache-2.0
"""The command line of ``python -m ubisip.proxy``."""

from __future__ import annotations

import argparse

from ubisip.proxy.logs import FORMATS, LEVELS
from ubisip.version import VERSION

EPILOG = """\
examples:
  python -m ubisip.proxy --config platform.toml --node pa2-gw1
  python -m ubisip.proxy --demo --duration 60 --rate 50

SIGTERM stops new calls, finishes those in set-up and exits 0; SIGHUP reloads the configuration, all or nothing.
exit codes: 0 stopped when asked, 1 it could not start (a port is taken...), 2 mistakes in the configuration or here
"""


def parser() -> argparse.ArgumentParser:
    """The options; argparse and not typer, as a gateway that was killed must be back within a second."""
    it = argparse.ArgumentParser(
        prog="python -m ubisip.proxy",
        description="Runs one gateway, or with --demo the whole platform on 127.0.0.0/8 with calls flowing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    it.add_argument("--version", action="version", version=f"ubisip {VERSION}")
    it.add_argument("--config", metavar="FILE", help="the configuration file of the platform")
    it.add_argument("--node", metavar="NAME", help="which of its gateways this is")
    it.add_argument("--log-format", choices=FORMATS, default="human", help="log lines for people or programs")
    it.add_argument("--log-level", choices=LEVELS, default="info", help="on standard error (%(default)s)")
    demo = it.add_argument_group("demonstration")
    demo.add_argument("--demo", action="store_true", help="run the whole platform; no other option above is needed")
    demo.add_argument("--duration", type=_positive, default=60.0, metavar="SECONDS", help="how long (%(default)g)")
    demo.add_argument("--rate", type=_positive, default=50.0, metavar="CALLS", help="new calls a second (%(default)g)")
    demo.add_argument("--seed", type=int, default=1, help="of all that is random (%(default)s)")
    demo.add_argument("--json", action="store_true", help="one JSON object a second instead of tables")
    return it


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return number
