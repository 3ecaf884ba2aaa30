# SPDX-License-Identifier: Apache-2.0
"""make bench: every measurement, then docs/performance.md and the figures in README.md.

Some twenty minutes on two processors, which must be quiet.

python -m bench [sidebyside] [register] [callgrind] [faults] [micro]     only these, then the page
python -m bench page                                           the page alone, from the results that are there
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import callgrind, faults, processes, register, report, sidebyside

HERE = Path(__file__).resolve().parent
MODULES = {
    "sidebyside": sidebyside.main,
    "register": register.main,
    "callgrind": callgrind.main,
    "faults": faults.main,
}


def micro() -> None:
    """Run the pytest-benchmark suites; keep of each its median for one unit of work."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "micro.json"
        command = [sys.executable, "-m", "pytest", "-q", str(HERE), f"--benchmark-json={output}"]
        subprocess.run(command, check=True, cwd=HERE.parent)
        found = json.loads(output.read_text())["benchmarks"]
    kept = {"machine": processes.versions(), "benchmarks": [_kept(one) for one in found]}
    (report.RESULTS / "micro.json").write_text(json.dumps(kept, indent=1) + "\n")


def _kept(one: dict[str, Any]) -> dict[str, Any]:
    per = one["extra_info"].get("per", 1)
    name = one["param"] or one["name"].removeprefix("test_").replace("_", " ")
    return {"group": one["group"], "name": name, "median_ns": one["stats"]["median"] * 1e9 / per}


def main() -> int:
    wanted = sys.argv[1:] or [*MODULES, "micro"]
    unknown = set(wanted) - {*MODULES, "micro", "page"}
    if unknown:
        sys.exit(f"{__doc__}\nunknown: {', '.join(sorted(unknown))}")
    report.RESULTS.mkdir(exist_ok=True)
    for name, measure in MODULES.items():
        if name in wanted:
            measure(["--json", str(report.RESULTS / f"{name}.json")])
    if "micro" in wanted:
        micro()
    report.write()
    subprocess.run([sys.executable, str(HERE.parent / "docs" / "make_figures.py")], check=True)
    print(f"wrote {report.PAGE.relative_to(HERE.parent)}, {report.PICTURE.relative_to(HERE.parent)}, README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
