/* SPDX-License-Identifier: Apache-2.0
 * The system calls of the worker, with the structures they need: recvmmsg, sendmmsg, the error queue, epoll, eventfd. */
#ifndef UBISIP_SOCKET_H
#define UBISIP_SOCKET_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define SEGMENTS 16        /* datagrams of one size to one peer that are given to the kernel as one */
#define SEGMENT_MOST 1200  /* octets of each: surely below the path's MTU, above which the kernel refuses the whole */
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

typedef struct {
  struct mmsghdr message[BATCH];
  struct iovec vector[BATCH];
  struct sockaddr_in6 name[BATCH]; /* large enough for sockaddr_in too */
  uint8_t *memory;
  uint32_t room;
  int used; /* of the last reception, whose name lengths the kernel has written */
} incoming_t;

/* room: octets of each buffer. Its pages count once they are used. */
static inline incoming_t *incoming_open(uint32_t room) {
  incoming_t *batch = calloc(1, sizeof *batch);
  if (!batch) return NULL;
  batch->room = room;
  batch->memory = mmap(NULL, (size_t)room * BATCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (batch->memory == MAP_FAILED) { free(batch); return NULL; }
  for (int i = 0; i < BATCH; i++) {
    batch->vector[i] = (struct iovec){batch->memory + (size_t)i * room, room - 64};
    batch->message[i].msg_hdr = (struct msghdr){.msg_iov = &batch->vector[i], .msg_iovlen = 1, .msg_name = &batch->name[i],
                                                .msg_namelen = sizeof batch->name[i]};
  }
  return batch;
}

static inline void incoming_close(incoming_t *batch) {
  if (!batch) return;
  munmap(batch->memory, (size_t)batch->room * BATCH);
  free(batch);
}

static inline int incoming_receive(incoming_t *batch, int fd) {
  for (int i = 0; i < batch->used; i++) batch->message[i].msg_hdr.msg_namelen = sizeof batch->name[i];
  int count = recvmmsg(fd, batch->message, BATCH, MSG_DONTWAIT, NULL);
  batch->used = count < 0 ? 0 : count;
  return count;
}

static inline int incoming_full(const incoming_t *batch) { return batch->used == BATCH; }

static inline uint8_t *incoming_data(incoming_t *batch, int i, uint32_t *size) {
  *size = batch->message[i].msg_len;
  return batch->vector[i].iov_base;
}

static inline void socket_to_address(const void *name, uint8_t *ip, uint16_t *port) {
  const struct sockaddr_in *four = name;
  const struct sockaddr_in6 *six = name;
  if (four->sin_family == AF_INET) {
    memset(ip, 0, 10);
    ip[10] = ip[11] = 0xff;
    memcpy(ip + 12, &four->sin_addr, 4);
    *port = ntohs(four->sin_port);
  } else {
    memcpy(ip, &six->sin6_addr, 16);
    *port = ntohs(six->sin6_port);
  }
}

static inline void incoming_from(incoming_t *batch, int i, uint8_t *ip, uint16_t *port) {
  socket_to_address(&batch->name[i], ip, port);
}

/* A message to the kernel is one datagram, or several of the same size to the same peer, which the kernel cuts apart where
 * it delivers them (UDP_SEGMENT, Linux 4.18): the way through it is gone once. */
typedef struct {
  struct mmsghdr message[BATCH];
  struct iovec vector[BATCH][SEGMENTS];
  struct sockaddr_in6 name[BATCH];
  _Alignas(struct cmsghdr) uint8_t control[BATCH][CMSG_SPACE(sizeof(uint16_t))];
  uint8_t last[64];  /* by size: the last message with such datagrams, plus one; one more may join it */
  uint8_t order[64]; /* by call: the message with its last datagram, plus one; none of that call may leave before it */
  int used;
  int apart; /* the kernel has refused: every datagram for itself from now on */
} outgoing_t;

static inline outgoing_t *outgoing_open(void) {
  outgoing_t *batch = calloc(1, sizeof *batch);
  for (int i = 0; batch && i < BATCH; i++) {
    struct cmsghdr *size = (struct cmsghdr *)batch->control[i];
    *size = (struct cmsghdr){.cmsg_level = IPPROTO_UDP, .cmsg_type = UDP_SEGMENT, .cmsg_len = CMSG_LEN(sizeof(uint16_t))};
    batch->message[i].msg_hdr = (struct msghdr){.msg_iov = batch->vector[i], .msg_name = &batch->name[i]};
  }
  return batch;
}

static inline void outgoing_clear(outgoing_t *batch) {
  batch->used = 0;
  memset(batch->last, 0, sizeof batch->last);
  memset(batch->order, 0, sizeof batch->order);
}

static inline int outgoing_full(const outgoing_t *batch) { return batch->used == BATCH; }

static inline socklen_t address_to_socket(const uint8_t *ip, uint16_t port, struct sockaddr_in6 *name) {
  static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  memset(name, 0, sizeof *name);
  if (!memcmp(ip, mapped, 12)) {
    struct sockaddr_in *four = (struct sockaddr_in *)name;
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    memcpy(&four->sin_addr, ip + 12, 4);
    return sizeof *four;
  }
  name->sin6_family = AF_INET6;
  name->sin6_port = htons(port);
  memcpy(&name->sin6_addr, ip, 16);
  return sizeof *name;
}

/* A datagram of a call may join others of its size to the same peer, and overtake those of other calls (call: a hash); one
 * without a call goes behind all that were added before. */
static inline void outgoing_add(outgoing_t *batch, uint8_t *data, uint32_t size, const uint8_t *ip, uint16_t port, uint64_t call) {
  struct msghdr *message;
  struct sockaddr_in6 name;
  socklen_t length = address_to_socket(ip, port, &name);
  uint8_t *last = &batch->last[(size ^ port) % sizeof batch->last];
  uint8_t *order = &batch->order[call % sizeof batch->order];
  int together = call && !batch->apart && size <= SEGMENT_MOST;
  if (together && *last && *order <= *last) {
    message = &batch->message[*last - 1].msg_hdr;
    if (message->msg_iov->iov_len == size && message->msg_iovlen < SEGMENTS && message->msg_namelen == length &&
        !memcmp(message->msg_name, &name, length)) {
      uint16_t each = (uint16_t)size;
      message->msg_control = batch->control[*last - 1];
      message->msg_controllen = sizeof batch->control[0];
      memcpy(CMSG_DATA((struct cmsghdr *)message->msg_control), &each, sizeof each);
      message->msg_iov[message->msg_iovlen++] = (struct iovec){data, size};
      *order = *last;
      return;
    }
  }
  message = &batch->message[batch->used++].msg_hdr;
  memcpy(message->msg_name, &name, length);
  message->msg_namelen = length;
  message->msg_iov[0] = (struct iovec){data, size};
  message->msg_iovlen = 1;
  message->msg_control = NULL;
  message->msg_controllen = 0;
  if (together) *last = (uint8_t)batch->used;
  if (call) *order = (uint8_t)batch->used;
}

static inline int outgoing_datagrams(const outgoing_t *batch, int first, int count) {
  int total = 0;
  for (int i = first; i < first + count; i++) total += (int)batch->message[i].msg_hdr.msg_iovlen;
  return total;
}

/* Gives how many messages from the first on were sent, or -1. */
static inline int outgoing_send(outgoing_t *batch, int fd, int first) {
  return sendmmsg(fd, batch->message + first, (unsigned)(batch->used - first), MSG_DONTWAIT);
}

/* Whether outgoing_send() gave -1 because this kernel or this path cannot cut a message into its datagrams. */
static inline int outgoing_refused(const outgoing_t *batch, int i) {
  return batch->message[i].msg_hdr.msg_iovlen > 1 &&
         (errno == EINVAL || errno == EIO || errno == EMSGSIZE || errno == EOPNOTSUPP);
}

/* Send the datagrams of such a message one by one, as all later ones; gives how many were sent. */
static inline int outgoing_send_apart(outgoing_t *batch, int fd, int i) {
  struct msghdr each = batch->message[i].msg_hdr;
  int sent = 0;
  batch->apart = 1;
  each.msg_control = NULL;
  each.msg_controllen = 0;
  each.msg_iovlen = 1;
  for (size_t n = 0; n < batch->message[i].msg_hdr.msg_iovlen; n++) {
    each.msg_iov = &batch->vector[i][n];
    sent += sendmsg(fd, &each, MSG_DONTWAIT) >= 0;
  }
  return sent;
}

/* One entry of the error queue: the address it is about and the start of the datagram; 0: the queue is empty. */
static inline int read_error(int fd, uint8_t *data, uint32_t room, uint32_t *size, uint8_t *ip, uint16_t *port) {
  struct sockaddr_in6 name;
  char control[512];
  struct iovec vector = {data, room};
  struct msghdr message = {.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &vector, .msg_iovlen = 1,
                           .msg_control = control, .msg_controllen = sizeof control};
  ssize_t got = recvmsg(fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT);
  if (got < 0) return 0;
  *size = (uint32_t)got;
  socket_to_address(&name, ip, port);
  return 1;
}

static inline int receive_errors(int fd, int on) {
  int family = 0;
  socklen_t length = sizeof family;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length)) return -1;
  if (family == AF_INET6) return setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on);
  return setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
}

static inline int epoll_open(void) { return epoll_create1(EPOLL_CLOEXEC); }

static inline int watch(int epoll, int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

/* Gives how many sockets have something. That `wake` was rung is taken note of here, before anybody looks for what it was
 * rung for: a ring that comes late, for a letter that was seen already, must not wake us for ever. */
static inline int wait_for(int epoll, int wake, int milliseconds) {
  struct epoll_event events[8];
  int ready = epoll_wait(epoll, events, 8, milliseconds), sockets = 0;
  for (int i = 0; i < ready; i++) {
    uint64_t rings;
    if (events[i].data.fd != wake) sockets++;
    else if (read(wake, &rings, sizeof rings) < 0) continue; /* somebody else has: nothing to take note of */
  }
  return sockets;
}

static inline int event_open(void) { return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

/* The kernel may lengthen a sleep by 50 us by default: as much as a tenth of the time datagrams gather. */
static inline void sharp_timers(void) { prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0); }
#endif
