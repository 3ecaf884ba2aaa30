// SPDX-License-Identifier: Apache-2.0
// The floor under every SIP proxy on a machine: datagrams in, the same datagrams out, nothing parsed.
// What comes from the caller goes to the server that a hash of its Call-ID picks; all else goes to the caller.
// usage: relay LISTEN:PORT CALLER:PORT SERVER:PORT...
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BATCH = 64, ROOM = 4096, SOCKET_BUFFER = 4 << 20 };

static struct sockaddr_in address(const char *text) {
  const char *colon = strrchr(text, ':');
  char host[64] = "";
  struct sockaddr_in result = {.sin_family = AF_INET};
  if (colon && colon - text < (long)sizeof host) {
    memcpy(host, text, colon - text);
    result.sin_port = htons(atoi(colon + 1));
  }
  if (!colon || inet_pton(AF_INET, host, &result.sin_addr) != 1) {
    fprintf(stderr, "relay: not an address: %s\n", text);
    exit(2);
  }
  return result;
}

static int same(const struct sockaddr_in *a, const struct sockaddr_in *b) {
  return a->sin_addr.s_addr == b->sin_addr.s_addr && a->sin_port == b->sin_port;
}

// FNV-1a over the value of Call-ID: every message of a call must meet the same server.
static uint32_t call_hash(const char *data, size_t size) {
  const char *end = data + size, *at = memmem(data, size, "\nCall-ID:", 9);
  uint32_t hash = 2166136261u;
  for (at = at ? at + 9 : end; at < end && *at != '\r'; at++) hash = (hash ^ (uint8_t)*at) * 16777619u;
  return hash;
}

int main(int argc, char **argv) {
  static char room[BATCH][ROOM];
  static struct iovec piece[BATCH];
  static struct sockaddr_in peer[BATCH], server[64];
  static struct mmsghdr batch[BATCH];
  const int servers = argc - 3, size = SOCKET_BUFFER;
  if (servers < 1 || servers > 64) {
    fprintf(stderr, "usage: relay LISTEN:PORT CALLER:PORT SERVER:PORT...\n");
    return 2;
  }
  struct sockaddr_in self = address(argv[1]), caller = address(argv[2]);
  for (int i = 0; i < servers; i++) server[i] = address(argv[3 + i]);
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  if (bind(fd, (struct sockaddr *)&self, sizeof self)) {
    perror("relay: bind");
    return 1;
  }
  for (struct pollfd wait = {.fd = fd, .events = POLLIN};;) {
    for (int i = 0; i < BATCH; i++) {
      piece[i] = (struct iovec){room[i], ROOM};
      batch[i].msg_hdr = (struct msghdr){
          .msg_name = &peer[i], .msg_namelen = sizeof peer[i], .msg_iov = &piece[i], .msg_iovlen = 1};
    }
    poll(&wait, 1, -1);
    int count = recvmmsg(fd, batch, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < count; i++) {
      piece[i].iov_len = batch[i].msg_len;
      peer[i] = same(&peer[i], &caller) ? server[call_hash(room[i], batch[i].msg_len) % servers] : caller;
    }
    for (int sent = 0; sent < count;) {
      int now = sendmmsg(fd, batch + sent, count - sent, 0);
      sent += now > 0 ? now : 1;  // a refused datagram is lost, as on a wire
    }
  }
}
