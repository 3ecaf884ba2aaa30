// SPDX-License-Identifier: Apache-2.0
// Agents' phones in a browser, made of SIP.js or of JsSIP: a test calls what hangs on window.phones.
import JsSIP from "jssip";
import { Inviter, Registerer, RegistererState, SessionState, UserAgent } from "sip.js";

const audio = { audio: true, video: false };
const noServers = { iceServers: [] };

// What both libraries have in common: how many registrations hold, the state of the call, its connection for media.
class Phone {
  registered = 0;
  state = "idle";
  connection = null;

  // The call is answered; the other is played, or his packets would not be decoded.
  establish(connection) {
    this.connection = connection;
    this.state = "established";
    this.player = new Audio();
    this.player.srcObject = new MediaStream(connection.getReceivers().map((receiver) => receiver.track));
    this.player.play();
  }

  async received() {
    let packets = 0, energy = 0;
    for (const one of (await this.connection.getStats()).values()) {
      if (one.type === "inbound-rtp" && one.kind === "audio") {
        packets += one.packetsReceived;
        energy += one.totalAudioEnergy;
      }
    }
    return { packets, energy };
  }
}

class SipJsPhone extends Phone {
  constructor({ user, password, realm, servers, instance }) {
    super();
    this.agents = servers.map((server) => new UserAgent({
      uri: UserAgent.makeURI(`sip:${user}@${realm}`),
      authorizationUsername: user,
      authorizationPassword: password,
      transportOptions: { server },
      sessionDescriptionHandlerFactoryOptions: { iceGatheringTimeout: 500, peerConnectionConfiguration: noServers },
      delegate: { onInvite: (invitation) => this.take(invitation, "incoming") },
    }));
    this.started = this.agents.map(async (agent, index) => {
      await agent.start();
      const registerer = new Registerer(agent, { expires: 600, instanceId: instance, regId: index + 1 });
      registerer.stateChange.addListener((state) => { this.registered += state === RegistererState.Registered ? 1 : -1; });
      await registerer.register();
    });
  }

  take(session, state) {
    this.session = session;
    this.state = state;
    session.stateChange.addListener((now) => {
      if (now === SessionState.Established) {
        this.establish(session.sessionDescriptionHandler.peerConnection);
      } else if (now === SessionState.Terminated) {
        this.state = "ended";
      }
    });
  }

  call(uri) {
    const inviter = new Inviter(this.agents[0], UserAgent.makeURI(uri), { sessionDescriptionHandlerOptions: { constraints: audio } });
    this.take(inviter, "calling");
    inviter.invite();
  }

  answer() { this.session.accept({ sessionDescriptionHandlerOptions: { constraints: audio } }); }
  hangUp() { this.session.bye(); }
}

class JsSipPhone extends Phone {
  constructor({ user, password, realm, servers }) {
    super();
    this.agents = servers.map((server) => {
      const agent = new JsSIP.UA({
        sockets: [new JsSIP.WebSocketInterface(server)], uri: `sip:${user}@${realm}`, password, register_expires: 600,
      });
      agent.on("registered", () => { this.registered += 1; });
      agent.on("unregistered", () => { this.registered -= 1; });
      agent.on("newRTCSession", ({ originator, session }) => {
        this.take(session, originator === "remote" ? "incoming" : "calling");
      });
      agent.start();
      return agent;
    });
  }

  take(session, state) {
    this.session = session;
    this.state = state;
    session.on("confirmed", () => this.establish(session.connection));
    for (const end of ["ended", "failed"]) session.on(end, () => { this.state = "ended"; });
  }

  call(uri) { this.agents[0].call(uri, { mediaConstraints: audio, pcConfig: noServers }); }
  answer() { this.session.answer({ mediaConstraints: audio, pcConfig: noServers }); }
  hangUp() { this.session.terminate(); }
}

window.phones = { SipJsPhone, JsSipPhone };
