# SPDX-License-Identifier: Apache-2.0
"""An agent's PJSIP phone, registered with both sites: commands come on standard input, what happens goes out, by lines.

Its only argument are the settings that :class:`pjsua_phone_parts.Phone` gives it, in JSON. Commands: ``call URI``,
``answer``, ``reinvite``, ``bye``, ``audio`` (packets received and their level), ``choose NUMBER`` (which call is meant
from now on, by its order), ``register NUMBER``, ``unregister NUMBER``, ``password TEXT``. It ends with its input.
"""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any

import pjsua2 as pj

TURN_MS = 20


def tell(*words: object) -> None:
    print(*words, flush=True)


class Tone(pj.ToneGenerator):
    """What the phone says: a tone without end."""

    def begin(self) -> None:
        self.createToneGenerator()
        tone = pj.ToneDesc()
        tone.freq1, tone.freq2, tone.on_msec, tone.off_msec = 440, 0, 1000, 0
        tone.volume, tone.flags = 12000, 0
        tones = pj.ToneDescVector()
        tones.append(tone)
        self.play(tones, True)


class Conversation(pj.Call):
    """One call; what is heard in it goes to the null device."""

    line: Line

    def onCallState(self, _parameters: pj.OnCallStateParam) -> None:
        info = self.getInfo()
        tell("state", info.stateText, info.lastStatusCode)

    def onCallMediaState(self, _parameters: pj.OnCallMediaStateParam) -> None:
        info = self.getInfo()  # owns what is read below
        if any(media.status == pj.PJSUA_CALL_MEDIA_ACTIVE for media in info.media):
            audio = self.getAudioMedia(-1)
            self.line.tone.startTransmit(audio)
            audio.startTransmit(pj.Endpoint.instance().audDevManager().getPlaybackDevMedia())
            tell("media")

    def onCallTsxState(self, parameters: pj.OnCallTsxStateParam) -> None:
        transaction = parameters.e.body.tsxState.tsx
        if transaction.state == pj.PJSIP_TSX_STATE_COMPLETED:
            tell("done", transaction.method, transaction.statusCode)


class Registration(pj.Account):
    """The registration with one site."""

    line: Line
    number: int

    def onIncomingCall(self, parameters: pj.OnIncomingCallParam) -> None:
        call = Conversation(self, parameters.callId)
        self.line.add(call)
        ringing = pj.CallOpParam(True)
        ringing.statusCode = 180
        call.answer(ringing)
        tell("incoming")

    def onRegState(self, parameters: pj.OnRegStateParam) -> None:
        tell("registration", self.number, parameters.code)


class Line:
    """What the phone has: a registration with each site, its calls, its tone."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.calls: list[Conversation] = []
        self.call: Conversation | None = None
        self.tone = Tone()
        self.tone.begin()
        self.registrations = [self._register(number, proxy) for number, proxy in enumerate(settings["proxies"], 1)]

    def configuration(self, number: int, proxy: str) -> pj.AccountConfig:
        settings = self.settings
        account = pj.AccountConfig()
        account.idUri = f"sip:{settings['user']}@{settings['realm']}"
        account.regConfig.registrarUri = f"sip:{settings['realm']}"
        account.regConfig.timeoutSec = settings["expires"]
        account.regConfig.retryIntervalSec = account.regConfig.firstRetryIntervalSec = 1
        account.regConfig.randomRetryIntervalSec = 0
        account.sipConfig.proxies.append(proxy)
        credentials = pj.AuthCredInfo("digest", "*", settings["user"], 0, settings["password"])
        account.sipConfig.authCreds.append(credentials)
        account.natConfig.sipOutboundUse = 1
        account.natConfig.sipOutboundInstanceId = settings["instance"]
        account.natConfig.sipOutboundRegId = str(number)
        account.mediaConfig.transportConfig.boundAddress = settings["host"]
        account.mediaConfig.transportConfig.port = settings["media_port"]
        return account

    def _register(self, number: int, proxy: str) -> Registration:
        registration = Registration()
        registration.line, registration.number = self, number
        registration.create(self.configuration(number, proxy))
        return registration

    def add(self, call: Conversation) -> None:
        """One more call, which is meant from now on."""
        call.line = self
        self.calls.append(call)
        self.call = call

    def command(self, name: str, argument: str) -> None:
        operation = pj.CallOpParam(True)
        if name == "call":
            call = Conversation(self.registrations[0])
            self.add(call)
            call.makeCall(argument, operation)
        elif name == "choose":
            self.call = self.calls[int(argument)]
        elif name == "register":
            self.registrations[int(argument) - 1].setRegistration(True)
        elif name == "unregister":
            self.registrations[int(argument) - 1].setRegistration(False)
        elif name == "password":
            self.settings["password"] = argument
            for registration, proxy in zip(self.registrations, self.settings["proxies"], strict=True):
                registration.modify(self.configuration(registration.number, proxy))
        else:
            assert self.call is not None, "no call"
            self._in_call(self.call, name, operation)

    def _in_call(self, call: Conversation, name: str, operation: pj.CallOpParam) -> None:
        if name == "answer":
            operation.statusCode = 200
            call.answer(operation)
        elif name == "reinvite":
            call.reinvite(operation)
        elif name == "bye":
            call.hangup(operation)
        else:
            assert name == "audio", name
            level = call.getAudioMedia(-1).getTxLevel()  # from the call to the bridge
            tell("audio", call.getStreamStat(0).rtcp.rxStat.pkt, level)


def start(settings: dict[str, Any]) -> pj.Endpoint:
    """An endpoint without sound, bound to one address."""
    endpoint, options = pj.Endpoint(), pj.EpConfig()
    endpoint.libCreate()
    options.uaConfig.threadCnt, options.uaConfig.mainThreadOnly = 0, True
    options.medConfig.noVad = True
    options.logConfig.filename = settings["log"]
    options.logConfig.level, options.logConfig.consoleLevel = 5, 0
    endpoint.libInit(options)
    for kind in pj.PJSIP_TRANSPORT_UDP, pj.PJSIP_TRANSPORT_TCP, pj.PJSIP_TRANSPORT_TLS:
        transport = pj.TransportConfig()
        transport.boundAddress = settings["host"]
        if kind == pj.PJSIP_TRANSPORT_TLS:
            if "ca" not in settings:
                continue
            transport.tlsConfig.CaListFile = settings["ca"]
            transport.tlsConfig.verifyServer = True
        endpoint.transportCreate(kind, transport)
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    return endpoint


def commands() -> list[str] | None:
    """The lines that have come on standard input; None at its end."""
    if not select.select([sys.stdin], [], [], 0)[0]:
        return []
    text = os.read(sys.stdin.fileno(), 65536).decode()  # each is written at once, so none comes in halves
    return text.splitlines() or None


def main() -> None:
    settings = json.loads(sys.argv[1])
    endpoint = start(settings)
    line = Line(settings)
    while True:
        endpoint.libHandleEvents(TURN_MS)
        lines = commands()
        if lines is None:
            break
        for name, _, argument in (text.partition(" ") for text in lines):
            try:
                line.command(name, argument)
            except pj.Error as error:
                tell("error", name, error.info())
    endpoint.libDestroy()


if __name__ == "__main__":
    main()
