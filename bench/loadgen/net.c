// Sockets and the loop.
#define _GNU_SOURCE
#include "loadgen.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int epoll_fd;
static char input[1 << 18];

uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

uint32_t random_u32(void) { // xorshift: masks and keys must differ, not be secret
  static uint32_t x = 0x9e3779b9;
  x ^= x << 13, x ^= x >> 17, x ^= x << 5;
  return x;
}

void net_start(void) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if ((rlim_t)(opt.connections + opt.publishers + 16) > files.rlim_max) {
    fprintf(stderr, "loadgen: needs %d open files, the limit is %lu\n", opt.connections + opt.publishers + 16,
            (unsigned long)files.rlim_max);
    exit(2);
  }
  prctl(PR_SET_TIMERSLACK, 1); // an open loop wakes on time, not 50 µs later
  epoll_fd = epoll_create1(0);
}

void keep(Buffer *b, const char *bytes, size_t length) {
  if (b->capacity < b->length + length) {
    b->capacity = b->length + length;
    b->data = realloc(b->data, b->capacity);
  }
  memmove(b->data + b->length, bytes, length);
  b->length += length;
}

void drop(Buffer *b) {
  free(b->data);
  *b = (Buffer){0};
}

// Edge-triggered: the kernel asks each socket once per arrival instead of twice, a tenth of our CPU time.
static void watch(Conn *c, int operation, uint32_t events) {
  struct epoll_event e = {.events = events | EPOLLET | EPOLLRDHUP, .data.ptr = c};
  epoll_ctl(epoll_fd, operation, c->fd, &e);
}

void connection_lost(Conn *c) {
  if (c->state == CLOSED) return;
  if (c->state == READY && c->kind == SUBSCRIBER) {
    if (!tally.lost_connections++) first_lost_ns = now_ns();
    ready_count--;
  } else {
    tally.refused++;
  }
  // Who was cut off comes back at once; who was refused waits 100 to 300 ms.
  c->retry_at = now_ns() + (c->state == READY ? 0 : 100000000 + random_u32() % 200000000);
  close(c->fd);
  c->state = CLOSED;
  c->received = 0;
  c->last_seq = 0;
  drop(&c->in);
  drop(&c->out);
}

bool dial(Conn *c) {
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) {
    perror("loadgen: socket");
    exit(1);
  }
  int one = 1;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(opt.port)};
  inet_pton(AF_INET, opt.host, &to.sin_addr);
  int beyond = c->index / opt.per_address; // one loopback address has about 28,000 ports
  if (beyond && ntohl(to.sin_addr.s_addr) >> 24 == 127) {
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + beyond);
    bind(c->fd, (struct sockaddr *)&from, sizeof from);
  }
  c->state = HANDSHAKE;
  if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
    connection_lost(c);
    return false;
  }
  watch(c, EPOLL_CTL_ADD, EPOLLIN);
  // Over loopback both ends are connected by now; where they are not, what is sent waits until they are. Not to wait
  // for it here, to ask for the socket's error and to watch it anew, nor to bind above without need: 25 → 17 µs each.
  if (c->kind == SUBSCRIBER) {
    subscriber_connected(c);
  } else {
    publisher_free(c);
  }
  return true;
}

void send_bytes(Conn *c, const char *bytes, size_t length) {
  if (!c->out.length) {
    ssize_t n = send(c->fd, bytes, length, MSG_NOSIGNAL);
    if (n == (ssize_t)length) return;
    if (n > 0) bytes += n, length -= n;
    watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
  }
  keep(&c->out, bytes, length);
}

static void writable(Conn *c) {
  ssize_t n = send(c->fd, c->out.data, c->out.length, MSG_NOSIGNAL);
  if (n < 0) return;
  c->out.length -= n;
  memmove(c->out.data, c->out.data + n, c->out.length);
  if (!c->out.length) {
    drop(&c->out);
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
  }
}

// Reads once, as a read that does not fill the buffer has emptied the socket; to the end when the other side is gone.
static void readable(Conn *c, bool to_the_end) {
  ssize_t n;
  do {
    n = recv(c->fd, input, sizeof input, 0);
    if (n <= 0) {
      if (n == 0 || errno != EAGAIN) connection_lost(c);
      return;
    }
    (c->kind == SUBSCRIBER ? subscriber_bytes : publisher_bytes)(c, input, n);
  } while (c->state != CLOSED && (to_the_end || n == sizeof input));
}

void turn(uint64_t wait_ns) {
  static struct epoll_event events[512];
  struct timespec wait = {.tv_sec = wait_ns / 1000000000, .tv_nsec = wait_ns % 1000000000};
  int n = epoll_pwait2(epoll_fd, events, 512, &wait, NULL);
  for (int i = 0; i < n; i++) {
    Conn *c = events[i].data.ptr;
    if (c->state != CLOSED && events[i].events & EPOLLOUT) writable(c);
    bool gone = events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
    if (c->state != CLOSED && (gone || events[i].events & EPOLLIN)) readable(c, gone);
  }
}
