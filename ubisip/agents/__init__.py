# SPDX-License-Identifier: Apache-2.0
"""Who can be reached, and how they prove who they are; the compiled registrar holds the bindings themselves."""
