# SPDX-License-Identifier: Apache-2.0
"""The version of this package; pyproject.toml says the same."""

VERSION = "0.1.0"
