# SPDX-License-Identifier: Apache-2.0
"""Daemons that several tests share are started once."""
