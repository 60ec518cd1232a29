// Subscribers: handshake, frames, acknowledgements.
#define _GNU_SOURCE
#include "loadgen.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

// What one read asks us to send goes out in one system call.
static char reply[1 << 16];
static size_t reply_length;

static void flush_reply(Conn *c) {
  if (reply_length) send_bytes(c, reply, reply_length);
  reply_length = 0;
}

static void add_frame(Conn *c, uint8_t opcode, const char *payload, size_t length) {
  if (length > 16000) return; // nothing that we send is that long
  if (reply_length + length + 8 > sizeof reply) flush_reply(c);
  uint8_t *f = (uint8_t *)reply + reply_length;
  *f++ = 0x80 | opcode;
  if (length < 126) {
    *f++ = 0x80 | length;
  } else {
    *f++ = 0x80 | 126, *f++ = length >> 8, *f++ = length;
  }
  uint32_t mask = random_u32();
  memcpy(f, &mask, 4);
  for (size_t i = 0; i < length; i++) f[4 + i] = payload[i] ^ f[i & 3];
  reply_length = (char *)f + 4 + length - reply;
}

static void joined(Conn *c) {
  c->state = READY;
  ready_count++;
  tally.handshakes++;
  last_ready_ns = now_ns();
}

static void acknowledge(Conn *c, uint64_t seq, bool confirm) {
  char text[80];
  size_t n = sprintf(text, "{\"type\":\"ack\",\"seq\":%llu%s}", (unsigned long long)seq, confirm ? ",\"confirm\":true" : "");
  add_frame(c, TEXT, text, n);
  tally.acks++;
}

static uint64_t number_after(const char *text, size_t length, const char *key) {
  const char *at = memmem(text, length, key, strlen(key));
  return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

// `text` is followed by a readable byte that is no digit: the next frame's head or the end of the buffer.
static void notification(Conn *c, const char *text, const char *at) {
  uint64_t stamp = strtoull(at + 3, NULL, 10);
  tally.received++;
  if (measuring && stamp) observe(&delivery, last_frame_ns - stamp);
  c->received++;
  uint64_t seq = number_after(text, at - text, "\"seq\":"); // stands before the data, which holds the stamp
  if (seq) {
    if (seq <= c->last_seq) tally.reordered++;
    c->last_seq = seq;
  }
  bool complete = coming_back && c->received == (uint32_t)opt.comeback;
  if (complete && ++complete_count) last_complete_ns = last_frame_ns;
  if (acknowledging && seq) acknowledge(c, seq, complete);
}

static void message(Conn *c, const char *text, size_t length) {
  const char *stamp = memmem(text, length, "TS=", 3);
  if (stamp) {
    notification(c, text, stamp);
    return;
  }
  tally.other_frames++;
  if (c->state == JOINING && opt.ready && memmem(text, length, opt.ready, strlen(opt.ready))) {
    joined(c);
  } else if (opt.text_ping && length == strlen(opt.text_ping) && !memcmp(text, opt.text_ping, length)) {
    add_frame(c, TEXT, opt.text_pong, strlen(opt.text_pong));
    tally.pongs++;
  } else if (coming_back && !c->settled && memmem(text, length, "\"settled\"", 9) &&
             c->received >= (uint32_t)opt.comeback && number_after(text, length, "\"seq\":") >= c->last_seq) {
    c->settled = true;
    settled_count++;
    last_settled_ns = now_ns();
  }
}

// Takes whole frames, says how many bytes it took.
static size_t frames(Conn *c, char *bytes, size_t length) {
  size_t at = 0;
  while (length - at >= 2 && c->state != CLOSED) {
    const uint8_t *f = (uint8_t *)bytes + at;
    uint64_t size = f[1] & 127, head = 2;
    if (size == 126) {
      if (length - at < 4) break;
      size = f[2] << 8 | f[3], head = 4;
    } else if (size == 127) {
      if (length - at < 10) break;
      size = 0, head = 10;
      for (int i = 2; i < 10; i++) size = size << 8 | f[i];
    }
    if (length - at < head + size) break;
    char *payload = bytes + at + head;
    switch (f[0] & 15) {
      case PING:
        add_frame(c, PONG, payload, size);
        tally.pongs++;
        break;
      case CLOSE: connection_lost(c); break;
      case TEXT:
      case BINARY: message(c, payload, size); break;
    }
    at += head + size;
  }
  return at;
}

void subscriber_connected(Conn *c) {
  static char request[1 << 15];
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  char key[25] = "";
  for (int i = 0; i < 21; i++) key[i] = alphabet[random_u32() % 64];
  strcpy(key + 21, "A=="); // 16 bytes end in four bits of nothing
  c->state = HANDSHAKE;
  char *p = stpcpy(request, "GET ");
  p += expand(p, opt.path, c->index, 0);
  p += sprintf(p, " HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", opt.host, opt.port);
  p += sprintf(p, "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", key);
  for (int i = 0; i < opt.header_count; i++) {
    p += expand(p, opt.headers[i], c->index, 0);
    p = stpcpy(p, "\r\n");
  }
  p = stpcpy(p, "\r\n");
  send_bytes(c, request, p - request);
}

// The server's answer to the handshake. False: not whole yet, or refused.
static bool upgraded(Conn *c, char **bytes, size_t *length) {
  char *end = memmem(*bytes, *length, "\r\n\r\n", 4);
  if (!end) return false;
  if (*length < 12 || memcmp(*bytes + 9, "101", 3)) {
    static int shown;
    if (!coming_back && shown++ < 3) fprintf(stderr, "loadgen: handshake answered %.*s\n", (int)(end - *bytes), *bytes);
    connection_lost(c);
    return false;
  }
  *length -= end + 4 - *bytes;
  *bytes = end + 4;
  c->state = JOINING;
  if (opt.hello) {
    char text[16384];
    add_frame(c, TEXT, text, expand(text, opt.hello, c->index, 0));
  }
  if (!opt.ready) joined(c);
  return true;
}

void subscriber_bytes(Conn *c, char *bytes, size_t length) {
  last_frame_ns = now_ns(); // all its frames arrived together
  Buffer joined_bytes = {0}; // only when the last read ended within a frame
  if (c->in.length) {
    keep(&c->in, bytes, length);
    joined_bytes = c->in;
    c->in = (Buffer){0};
    bytes = joined_bytes.data, length = joined_bytes.length;
  }
  size_t used = 0;
  if (c->state != HANDSHAKE || upgraded(c, &bytes, &length)) used = frames(c, bytes, length);
  if (c->state != CLOSED) {
    if (used < length) keep(&c->in, bytes + used, length - used);
    flush_reply(c);
  }
  reply_length = 0;
  drop(&joined_bytes);
}
