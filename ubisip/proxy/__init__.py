# SPDX-License-Identifier: Apache-2.0
"""The gateway itself: composition of the core, health and the admin side; the only place that constructs everything."""
