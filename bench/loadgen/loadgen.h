// loadgen: one epoll loop that plays N WebSocket subscribers and P HTTP publishers against one server.
//
//   options.c  the command line          ws.c    subscribers: handshake, frames, acknowledgements
//   net.c      sockets and the loop      http.c  publishers: requests, answers, pace
//   stats.c    histograms, /proc, JSON   main.c  the phases of a run
//
// It knows no server by name: what is sent are templates from the command line, in which @C stands for the number of
// the client, @K for its token and @T for the time stamp (16 digits, ns of CLOCK_MONOTONIC). A frame is a
// notification when it holds "TS=" and a time stamp; the difference to now is its delay.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STAMP_DIGITS 16

typedef enum { SUBSCRIBER, PUBLISHER } Kind;
// A subscriber goes CLOSED → HANDSHAKE (dialed, request sent) → JOINING (101 came) → READY (welcomed).
// A publisher goes CLOSED → READY (dialed) → WAITING (request sent) → READY.
typedef enum { CLOSED, HANDSHAKE, JOINING, READY, WAITING } State;

typedef struct {
  char *data;
  size_t length, capacity;
} Buffer;

typedef struct {
  int fd;
  uint32_t index;
  uint8_t kind, state;
  bool settled;         // come-back: the server has told that everything is acknowledged for good
  uint32_t received;    // come-back: notifications seen on this socket
  uint64_t last_seq;    // of this socket: a seq that does not rise is counted
  uint64_t retry_at;    // come-back: not dialled again before
  uint64_t asked_at;    // publisher: when the request was due
  size_t body_left;     // publisher: bytes of the answer's body still to come
  Buffer in, out;       // a frame or head still incomplete; bytes that the kernel did not take yet
} Conn;

typedef struct {
  const char *host, *path, *hello, *ready, *text_ping, *text_pong, *tokens;
  const char *publish_path, *publish_body, *headers[8], *publish_headers[8];
  int port, connections, clients, publishers, batch, dialing, per_address, cpu, server_pid, comeback;
  int header_count, publish_header_count;
  bool ack, broadcast;
  long count, window, gather;
  double rate, warmup, seconds, hold, settle, limit;
} Options;

// Everything that is counted; a measured window is the difference of two of these.
typedef struct {
  uint64_t time_ns;
  double own_cpu, server_cpu, stolen;
  uint64_t sent, answered, accepted, rejected, failed_requests;
  uint64_t received, reordered, acks, pongs, other_frames;
  uint64_t handshakes, refused, lost_connections;
} Tally;

// Percentiles without keeping samples: 64 buckets per power of two, so at most 1.6 % wrong.
#define HISTOGRAM_BUCKETS (64 * 64)
typedef struct {
  uint64_t count, max;
  uint32_t bucket[HISTOGRAM_BUCKETS];
} Histogram;

extern Options opt;
extern Tally tally;
extern Conn *conns; // subscribers first, then publishers
extern Histogram delivery, answer, lateness;
extern bool measuring, acknowledging, coming_back;
extern uint64_t last_frame_ns, last_ready_ns, last_complete_ns, last_settled_ns, first_lost_ns;
extern uint32_t ready_count, complete_count, settled_count;

// options.c
void parse_options(int argc, char **argv);
const char *token_of(uint32_t index);
size_t expand(char *to, const char *template, uint32_t client, uint64_t stamp);

// net.c
uint64_t now_ns(void);
uint32_t random_u32(void);
void net_start(void);
bool dial(Conn *c);
void send_bytes(Conn *c, const char *bytes, size_t length);
void keep(Buffer *b, const char *bytes, size_t length);
void drop(Buffer *b);
void connection_lost(Conn *c);
void turn(uint64_t wait_ns); // one turn of the loop

// ws.c
void subscriber_connected(Conn *c);
void subscriber_bytes(Conn *c, char *bytes, size_t length);

// http.c
void publisher_bytes(Conn *c, char *bytes, size_t length);
void publish_when_due(void);
uint64_t next_due_ns(void);
void publisher_free(Conn *c);
void publishing_start(void);
void publishing_stop(void);
bool publishing_idle(void);
uint64_t expected_notifications(const Tally *from, const Tally *to);

// stats.c
void observe(Histogram *h, uint64_t ns);
double percentile_ms(const Histogram *h, double share);
void print_histogram(const char *name, const Histogram *h);
void print_number(const char *name, double value, int decimals);
long memory_kb(int pid, const char *field);
double own_cpu_seconds(void);
double process_cpu_seconds(int pid);
void snapshot(Tally *to);
