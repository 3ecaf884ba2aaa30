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

typedef struct {
  struct mmsghdr message[BATCH];
  struct iovec vector[BATCH];
  struct sockaddr_in6 name[BATCH]; /* large enough for sockaddr_in too */
  uint8_t *memory;
  uint32_t room;
  int used; /* of the last reception, whose name lengths the kernel has written */
} batch_t;

static inline int batch_size(void) { return BATCH; }

/* room: octets of each receive buffer; 0: a batch for sending only. Pages of the buffers count once they are used. */
static inline batch_t *batch_open(uint32_t room) {
  batch_t *batch = calloc(1, sizeof *batch);
  if (!batch) return NULL;
  batch->room = room;
  if (room) {
    batch->memory = mmap(NULL, (size_t)room * BATCH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (batch->memory == MAP_FAILED) { free(batch); return NULL; }
  }
  for (int i = 0; i < BATCH; i++) {
    batch->message[i].msg_hdr.msg_iov = &batch->vector[i];
    batch->message[i].msg_hdr.msg_iovlen = 1;
    batch->message[i].msg_hdr.msg_name = &batch->name[i];
    batch->message[i].msg_hdr.msg_namelen = sizeof batch->name[i];
    if (room) batch->vector[i] = (struct iovec){batch->memory + (size_t)i * room, room - 64};
  }
  return batch;
}

static inline void batch_close(batch_t *batch) {
  if (!batch) return;
  if (batch->memory) munmap(batch->memory, (size_t)batch->room * BATCH);
  free(batch);
}

static inline int batch_receive(batch_t *batch, int fd) {
  for (int i = 0; i < batch->used; i++) batch->message[i].msg_hdr.msg_namelen = sizeof batch->name[i];
  int count = recvmmsg(fd, batch->message, BATCH, MSG_DONTWAIT, NULL);
  batch->used = count < 0 ? 0 : count;
  return count;
}

static inline uint8_t *batch_data(batch_t *batch, int i, uint32_t *size) {
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

static inline void batch_from(batch_t *batch, int i, uint8_t *ip, uint16_t *port) {
  socket_to_address(&batch->name[i], ip, port);
}

static inline void batch_to(batch_t *batch, int i, uint8_t *data, uint32_t size, const uint8_t *ip, uint16_t port) {
  static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  batch->vector[i] = (struct iovec){data, size};
  if (!memcmp(ip, mapped, 12)) {
    struct sockaddr_in *four = (struct sockaddr_in *)&batch->name[i];
    memset(four, 0, sizeof *four);
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    memcpy(&four->sin_addr, ip + 12, 4);
    batch->message[i].msg_hdr.msg_namelen = sizeof *four;
  } else {
    struct sockaddr_in6 *six = &batch->name[i];
    memset(six, 0, sizeof *six);
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    memcpy(&six->sin6_addr, ip, 16);
    batch->message[i].msg_hdr.msg_namelen = sizeof *six;
  }
}

static inline int batch_send(batch_t *batch, int fd, int first, int count) {
  return sendmmsg(fd, batch->message + first, (unsigned)count, MSG_DONTWAIT);
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
