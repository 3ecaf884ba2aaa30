# SPDX-License-Identifier: Apache-2.0
"""What to do about what is down: verdicts, plans, actions (DESIGN section 9)."""
