# SPDX-License-Identifier: Apache-2.0
"""Simulated SBCs, telephony servers and a chaos link: the demo, tests and benches stand on them."""
