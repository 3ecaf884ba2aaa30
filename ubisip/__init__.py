# SPDX-License-Identifier: Apache-2.0
"""ubisip: a high-availability SIP proxy library.

What is listed here is the public interface; everything else may change.
"""

from ubisip.admin.face import UnknownDestination
from ubisip.config import Config
from ubisip.core.message import Message, ParseError
from ubisip.errors import ConfigError, Mistake, UsageError
from ubisip.platform import Switch
from ubisip.proxy.events import (
    Answered,
    CallEvent,
    Draining,
    Ended,
    Failed,
    FailedOver,
    GatewayEvent,
    HealthChanged,
    PlanEnded,
    PlanEvent,
    PlanStarted,
    Reloaded,
    Ringing,
    SetUp,
    StepTaken,
    Subscription,
    SwitchChanged,
    TierChanged,
)
from ubisip.proxy.gateway import Gateway
from ubisip.proxy.hooks import Hook, NewCall
from ubisip.version import VERSION as __version__

__all__ = [
    "Answered",
    "CallEvent",
    "Config",
    "ConfigError",
    "Draining",
    "Ended",
    "Failed",
    "FailedOver",
    "Gateway",
    "GatewayEvent",
    "HealthChanged",
    "Hook",
    "Message",
    "Mistake",
    "NewCall",
    "ParseError",
    "PlanEnded",
    "PlanEvent",
    "PlanStarted",
    "Reloaded",
    "Ringing",
    "SetUp",
    "StepTaken",
    "Subscription",
    "Switch",
    "SwitchChanged",
    "TierChanged",
    "UnknownDestination",
    "UsageError",
    "__version__",
]
