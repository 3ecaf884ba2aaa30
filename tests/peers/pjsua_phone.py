# SPDX-License-Identifier: Apache-2.0
"""A phone made of PJSIP: commands come on standard input, what happens goes to standard output, a line each.

Commands: ``call URI``, ``answer STATUS``, ``hold``, ``resume``, ``info DIGITS``, ``update``, ``bye``, ``quit``.
"""

from __future__ import annotations

import select
import sys

import pjsua2 as pj

TURN_MS = 20


def tell(*words: object) -> None:
    print(*words, flush=True)


class Conversation(pj.Call):
    """One call."""

    def onCallState(self, _parameters: pj.OnCallStateParam) -> None:
        info = self.getInfo()
        tell("state", info.stateText, info.lastStatusCode)

    def onCallMediaState(self, _parameters: pj.OnCallMediaStateParam) -> None:
        names = {
            pj.PJSUA_CALL_MEDIA_ACTIVE: "active",
            pj.PJSUA_CALL_MEDIA_LOCAL_HOLD: "held-by-us",
            pj.PJSUA_CALL_MEDIA_REMOTE_HOLD: "held-by-them",
        }
        info = self.getInfo()  # owns what is read below
        tell("media", *(names.get(media.status, media.status) for media in info.media))

    def onDtmfDigit(self, parameters: pj.OnDtmfDigitParam) -> None:
        tell("digit", parameters.digit)

    def onCallTsxState(self, parameters: pj.OnCallTsxStateParam) -> None:
        transaction = parameters.e.body.tsxState.tsx
        if transaction.state == pj.PJSIP_TSX_STATE_COMPLETED:
            tell("done", transaction.method, transaction.statusCode)


class Line(pj.Account):
    """The phone's only account; it registers nowhere."""

    conversation: Conversation | None = None

    def onIncomingCall(self, parameters: pj.OnIncomingCallParam) -> None:
        self.conversation = Conversation(self, parameters.callId)
        tell("incoming")

    def command(self, name: str, argument: str) -> None:
        operation = pj.CallOpParam(True)
        if name == "call":
            self.conversation = Conversation(self)
            self.conversation.makeCall(argument, operation)
            return
        conversation = self.conversation
        assert conversation is not None, "no call"
        if name == "answer":
            operation.statusCode = int(argument)
            conversation.answer(operation)
        elif name == "hold":
            conversation.setHold(operation)
        elif name == "resume":
            operation.opt.flag = pj.PJSUA_CALL_UNHOLD
            conversation.reinvite(operation)
        elif name == "update":
            conversation.update(operation)
        elif name == "info":
            digits = pj.CallSendDtmfParam()
            digits.method = pj.PJSUA_DTMF_METHOD_SIP_INFO
            digits.digits = argument
            conversation.sendDtmf(digits)
        else:
            assert name == "bye", name
            conversation.hangup(operation)


def start(host: str, port: int) -> tuple[pj.Endpoint, Line]:
    """An endpoint without sound, bound to one address."""
    endpoint, options = pj.Endpoint(), pj.EpConfig()
    endpoint.libCreate()
    options.uaConfig.threadCnt, options.uaConfig.mainThreadOnly = 0, True
    options.logConfig.level = options.logConfig.consoleLevel = 0
    endpoint.libInit(options)
    transport = pj.TransportConfig()
    transport.port, transport.boundAddress = port, host
    endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.libStart()
    endpoint.audDevManager().setNullDev()
    account = pj.AccountConfig()
    account.idUri = f"sip:phone@{host}:{port}"
    account.mediaConfig.transportConfig.boundAddress = host
    account.mediaConfig.transportConfig.port = 40000
    line = Line()
    line.create(account)
    return endpoint, line


def main() -> None:
    endpoint, line = start(sys.argv[1], int(sys.argv[2]))
    tell("ready")
    while True:
        endpoint.libHandleEvents(TURN_MS)
        if not select.select([sys.stdin], [], [], 0)[0]:
            continue
        name, _, argument = sys.stdin.readline().strip().partition(" ")
        if name in ("", "quit"):
            break
        try:
            line.command(name, argument)
        except pj.Error as error:
            tell("error", name, error.info())
    line.conversation = None
    line.shutdown()
    endpoint.libDestroy()


if __name__ == "__main__":
    main()
