# SPDX-License-Identifier: Apache-2.0
"""The compiled core: one extension for each ext/ubisip/core/*.pyx. All else is in pyproject.toml."""
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("UBISIP_DEBUG") == "1"  # bounds checks and assertions, for the debug build of the tests
LATER = os.environ.get("UBISIP_CORE") == "later"  # the Makefile compiles it in place, which is quick the second time
SOURCES = [] if LATER else sorted(Path("ext/ubisip/core").glob("*.pyx"))

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"ubisip.core.{source.stem}",
                [str(source)],
                include_dirs=["ext/ubisip/core"],
                depends=[str(header) for header in Path("ext/ubisip/core").glob("*.h")],
                extra_compile_args=["-O0", "-g"] if DEBUG else ["-O3", "-g1"],
                define_macros=[("UBISIP_DEBUG", "1")] if DEBUG else [],
            )
            for source in SOURCES
        ],
        include_path=["ext"],
        build_dir="build",
        compiler_directives={
            "language_level": "3",
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
        },
    ),
)
