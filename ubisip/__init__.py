# SPDX-License-Identifier: Apache-2.0
"""ubisip: a high-availability SIP proxy library.

What is listed here is the public interface; everything else may change.
"""

from ubisip.admin.face import NoRegistrar, UnknownDestination
from ubisip.agents.credentials import Credentials
from ubisip.agents.secret import Secret
from ubisip.config import Config
from ubisip.core.message import Message, ParseError
from ubisip.errors import ConfigError, Mistake, UsageError
from ubisip.platform import Switch
from ubisip.proxy.events import (
    AgentEvent,
    AgentExpired,
    AgentRefreshed,
    AgentRegistered,
    AgentReplaced,
    AgentsAtOneSite,
    AgentUnregistered,
    Answered,
    CallEvent,
    Draining,
    Ended,
    Failed,
    FailedOver,
    FlowLost,
    GatewayEvent,
    HealthChanged,
    Reloaded,
    Ringing,
    ServerInStep,
    ServerOutOfStep,
    SetUp,
    Subscription,
    SwitchChanged,
)
from ubisip.proxy.gateway import Gateway
from ubisip.proxy.hooks import Hook, NewCall
from ubisip.version import VERSION as __version__

__all__ = [
    "AgentEvent",
    "AgentExpired",
    "AgentRefreshed",
    "AgentRegistered",
    "AgentReplaced",
    "AgentUnregistered",
    "AgentsAtOneSite",
    "Answered",
    "CallEvent",
    "Config",
    "ConfigError",
    "Credentials",
    "Draining",
    "Ended",
    "Failed",
    "FailedOver",
    "FlowLost",
    "Gateway",
    "GatewayEvent",
    "HealthChanged",
    "Hook",
    "Message",
    "Mistake",
    "NewCall",
    "NoRegistrar",
    "ParseError",
    "Reloaded",
    "Ringing",
    "Secret",
    "ServerInStep",
    "ServerOutOfStep",
    "SetUp",
    "Subscription",
    "Switch",
    "SwitchChanged",
    "UnknownDestination",
    "UsageError",
    "__version__",
]
