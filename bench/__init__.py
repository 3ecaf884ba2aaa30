# SPDX-License-Identifier: Apache-2.0
"""Measurements of ubisip beside its peers; not part of the installed package."""
