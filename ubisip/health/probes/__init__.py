# SPDX-License-Identifier: Apache-2.0
"""The probes that come with ubisip: one kind a module, found by the entry points ``ubisip.probes``."""
