// Publishers: requests, answers, pace.
#define _GNU_SOURCE
#include "loadgen.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char request[8 << 20];
static Conn **idle; // ring of the publishers without a request under way; taken in turn, so that none idles for long
static int idle_first, idle_count;
static uint32_t next_client;
static uint64_t started_ns, scheduled; // open loop: request k is due at started_ns + k / rate
static bool open_loop, sending;

static void publish(Conn *c, uint64_t stamp) {
  if (c->state == CLOSED) return; // was closed while idle; counted as lost
  static char body[7 << 20];
  char *b = body;
  uint32_t client = next_client;
  if (opt.batch == 1) {
    b += expand(b, opt.publish_body, client, stamp);
    next_client = (client + 1) % opt.clients;
  } else {
    for (int i = 0; i < opt.batch; i++) {
      *b++ = i ? ',' : '[';
      b += expand(b, opt.publish_body, next_client, stamp);
      next_client = (next_client + 1) % opt.clients;
    }
    *b++ = ']';
  }
  char *p = stpcpy(request, "POST ");
  p += expand(p, opt.publish_path, client, stamp);
  p += sprintf(p, " HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\n", opt.host, opt.port);
  for (int i = 0; i < opt.publish_header_count; i++) p = stpcpy(stpcpy(p, opt.publish_headers[i]), "\r\n");
  p += sprintf(p, "Content-Length: %zu\r\n\r\n", (size_t)(b - body));
  p = mempcpy(p, body, b - body);
  c->state = WAITING;
  c->asked_at = stamp;
  tally.sent++;
  send_bytes(c, request, p - request);
}

static Conn *take_idle(void) {
  Conn *c = idle[idle_first];
  idle_first = (idle_first + 1) % opt.publishers;
  idle_count--;
  return c;
}

// Closed loop: may another request go out, or are enough notifications on their way?
static bool window_open(void) {
  if (opt.count && tally.sent >= (uint64_t)opt.count) return false;
  if (!opt.window) return true;
  uint64_t each = opt.broadcast ? opt.connections : opt.batch;
  return tally.sent * each < tally.received + opt.window;
}

void publish_when_due(void) {
  if (!sending) return;
  if (!open_loop) {
    while (idle_count && window_open()) publish(take_idle(), now_ns());
    return;
  }
  uint64_t now = now_ns();
  while (idle_count && next_due_ns() <= now && !(opt.count && scheduled >= (uint64_t)opt.count)) {
    uint64_t due = next_due_ns();
    if (measuring) observe(&lateness, now - due);
    scheduled++;
    publish(take_idle(), due);
  }
}

uint64_t next_due_ns(void) { return open_loop && sending ? started_ns + scheduled * 1e9 / opt.rate : UINT64_MAX; }

void publisher_free(Conn *c) {
  if (!idle) idle = calloc(opt.publishers, sizeof *idle);
  c->state = READY;
  idle[(idle_first + idle_count++) % opt.publishers] = c;
}

void publishing_start(void) {
  started_ns = now_ns();
  scheduled = 0;
  open_loop = opt.rate > 0;
  sending = true;
}

void publishing_stop(void) { sending = false; }
bool publishing_idle(void) { return idle_count == opt.publishers; }

uint64_t expected_notifications(const Tally *from, const Tally *to) {
  return (to->accepted - from->accepted) * (opt.broadcast ? opt.connections : 1);
}

static void answered(Conn *c) {
  tally.answered++;
  if (measuring) observe(&answer, now_ns() - c->asked_at);
  publisher_free(c);
  if (!open_loop) publish_when_due();
}

static void head(Conn *c, const char *text, size_t length) {
  char copy[4096];
  if (length >= sizeof copy) length = sizeof copy - 1;
  memcpy(copy, text, length);
  copy[length] = 0;
  const char *size = strcasestr(copy, "\r\ncontent-length:"), *rejected = strcasestr(copy, "\r\nnotifier-rejected:");
  int status = atoi(copy + 9);
  c->body_left = size ? strtoull(size + 17, NULL, 10) : 0;
  if (!size && status != 204) {
    fprintf(stderr, "loadgen: an answer without Content-Length: %s\n", copy);
    exit(1);
  }
  if (status / 100 != 2) {
    if (tally.failed_requests++ < 3) fprintf(stderr, "loadgen: publish answered %s\n", copy);
    return;
  }
  uint64_t refused = rejected ? strtoull(rejected + 20, NULL, 10) : 0;
  tally.rejected += refused;
  tally.accepted += opt.batch - refused;
}

void publisher_bytes(Conn *c, char *bytes, size_t length) {
  if (c->in.length) { // a head that came in pieces
    keep(&c->in, bytes, length);
    bytes = c->in.data, length = c->in.length;
  }
  if (!c->body_left) {
    char *end = memmem(bytes, length, "\r\n\r\n", 4);
    if (!end) {
      if (!c->in.length) keep(&c->in, bytes, length);
      return;
    }
    head(c, bytes, end + 4 - bytes);
    length -= end + 4 - bytes;
  }
  c->body_left -= length < c->body_left ? length : c->body_left;
  drop(&c->in);
  if (!c->body_left) answered(c);
}
