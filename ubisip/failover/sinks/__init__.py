# SPDX-License-Identifier: Apache-2.0
"""The sinks that come with ubisip: one kind a module, found by the entry points ``ubisip.sinks``."""
