// The phases of a run: connect, rest, hold, publish, come back.
#define _GNU_SOURCE
#include "loadgen.h"
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

Tally tally;
Conn *conns;
Histogram delivery, answer, lateness;
bool measuring, acknowledging, coming_back;
uint64_t last_frame_ns, last_ready_ns, last_complete_ns, last_settled_ns, first_lost_ns;
uint32_t ready_count, complete_count, settled_count;

static const uint64_t MS = 1000000;

static uint64_t after(double seconds) { return now_ns() + seconds * 1e9; }

// One turn that ends at `until`, at the next request that is due, or after 20 ms.
static void turn_until(uint64_t until) {
  publish_when_due();
  if (opt.gather) nanosleep(&(struct timespec){.tv_nsec = opt.gather * 1000}, NULL);
  uint64_t now = now_ns(), due = next_due_ns(), end = until < due ? until : due;
  turn(end <= now ? 0 : end - now < 20 * MS ? end - now : 20 * MS);
}

static double own_share(const Tally *from, const Tally *to) {
  return (to->own_cpu - from->own_cpu) / ((to->time_ns - from->time_ns) / 1e9);
}

static void print_server(const char *name, const Tally *from, const Tally *to, double things) {
  double cpu = to->server_cpu - from->server_cpu, wall = (to->time_ns - from->time_ns) / 1e9;
  if (!opt.server_pid) return;
  printf(",\n \"%s_server_cpu\":%.4f", name, cpu / wall);
  if (things > 0) printf(",\n \"%s_server_us_each\":%.2f", name, cpu / things * 1e6);
}

static void connect_all(void) {
  Tally from, to;
  long before = memory_kb(opt.server_pid, "VmRSS");
  snapshot(&from);
  uint64_t limit = after(opt.limit);
  int dialed = 0, at_once = opt.comeback ? 100 : opt.dialing; // --dialing is meant for the come-back
  while (ready_count + tally.refused < (uint32_t)opt.connections && now_ns() < limit) {
    while (dialed < opt.connections && dialed - (int)(ready_count + tally.refused) < at_once) dial(&conns[dialed++]);
    turn(20 * MS);
  }
  snapshot(&to);
  double seconds = (to.time_ns - from.time_ns) / 1e9;
  print_number("connected", ready_count, 0);
  print_number("refused", tally.refused, 0);
  print_number("connect_seconds", seconds, 3);
  print_number("handshakes_per_s", ready_count / seconds, 1);
  print_number("connect_load_share", own_share(&from, &to), 3);
  print_server("connect", &from, &to, ready_count);
  for (uint64_t end = after(opt.settle); now_ns() < end;) turn_until(end);
  if (opt.server_pid) {
    long rss = memory_kb(opt.server_pid, "VmRSS");
    print_number("rss_before_kb", before, 0);
    print_number("rss_connected_kb", rss, 0);
    print_number("kb_per_connection", (rss - before) / (double)(ready_count ? ready_count : 1), 3);
  }
}

static void hold(void) {
  Tally from, to;
  snapshot(&from);
  for (uint64_t end = after(opt.hold); now_ns() < end;) turn_until(end);
  snapshot(&to);
  print_number("hold_seconds", (to.time_ns - from.time_ns) / 1e9, 3);
  print_number("hold_pongs", to.pongs - from.pongs, 0);
  print_server("hold", &from, &to, 0);
}

static bool settled_down(const Tally *start) {
  Tally now = tally;
  uint64_t expected = opt.connections ? expected_notifications(start, &now) : 0;
  return publishing_idle() && now.received - start->received >= expected;
}

static void publish_phase(void) {
  for (int i = 0; i < opt.publishers; i++) dial(&conns[opt.connections + i]);
  for (uint64_t end = after(10); !publishing_idle() && now_ns() < end;) turn(20 * MS);
  Tally start, from, to, finish;
  snapshot(&start);
  publishing_start();
  for (uint64_t end = after(opt.warmup); now_ns() < end;) turn_until(end);
  measuring = true;
  snapshot(&from);
  if (opt.count) {
    uint64_t end = after(opt.limit);
    while (tally.sent - start.sent < (uint64_t)opt.count && now_ns() < end) turn_until(end);
    while (!settled_down(&start) && now_ns() < end) turn_until(now_ns() + MS);
  } else {
    for (uint64_t end = after(opt.seconds); now_ns() < end;) turn_until(end);
  }
  snapshot(&to);
  measuring = false;
  publishing_stop();
  // The rest of what is under way: nothing may be missing, however late. Then time for the last acknowledgements.
  for (uint64_t end = after(10); !settled_down(&start) && now_ns() < end;) turn_until(end);
  for (uint64_t end = after(0.1); now_ns() < end;) turn_until(end);
  snapshot(&finish);

  double seconds = (to.time_ns - from.time_ns) / 1e9;
  uint64_t received = to.received - from.received, accepted = to.accepted - from.accepted;
  uint64_t expected = opt.connections ? expected_notifications(&start, &finish) : 0;
  print_number("seconds", seconds, 3);
  print_number("requests_per_s", (to.answered - from.answered) / seconds, 1);
  print_number("accepted_per_s", accepted / seconds, 1);
  print_number("delivered_per_s", received / seconds, 1);
  print_number("total_accepted", finish.accepted - start.accepted, 0);
  print_number("total_received", finish.received - start.received, 0);
  print_number("missing", (double)expected - (double)(finish.received - start.received), 0);
  print_number("rejected", finish.rejected, 0);
  print_number("failed_requests", finish.failed_requests, 0);
  print_number("reordered", finish.reordered, 0);
  print_number("acks", finish.acks, 0);
  print_number("pongs", finish.pongs, 0);
  print_number("lost_connections", finish.lost_connections + finish.refused - start.refused, 0);
  print_number("load_share", own_share(&from, &to), 3);
  print_number("stolen_share", (to.stolen - from.stolen) / seconds / sysconf(_SC_NPROCESSORS_ONLN), 5);
  print_server("publish", &from, &to, opt.connections ? received : accepted);
  print_histogram("delivery_ms", &delivery);
  print_histogram("answer_ms", &answer);
  print_histogram("lateness_ms", &lateness);
  if (opt.server_pid) print_number("rss_end_kb", memory_kb(opt.server_pid, "VmRSS"), 0);
}

static void come_back(void) {
  printf(",\n \"armed\":true");
  fputs("armed\n", stderr); // the harness kills the server when it reads this
  fflush(stderr);
  coming_back = acknowledging = true;
  for (int i = 0; i < opt.connections; i++) conns[i].received = 0, conns[i].last_seq = 0;
  tally.refused = 0;
  Tally from, to;
  snapshot(&from);
  uint64_t limit = after(opt.limit), sweep = 0;
  while (settled_count < (uint32_t)opt.connections && now_ns() < limit) {
    if (first_lost_ns && now_ns() > sweep) {
      int under_way = 0;
      for (int i = 0; i < opt.connections; i++) under_way += conns[i].state != CLOSED && conns[i].state != READY;
      for (int i = 0; i < opt.connections && under_way < opt.dialing; i++) {
        Conn *c = &conns[i];
        if (c->state != CLOSED || c->retry_at > now_ns()) continue;
        under_way += dial(c);
      }
      sweep = now_ns() + 5 * MS;
    }
    turn(5 * MS);
  }
  snapshot(&to);
  print_number("first_lost_ns", first_lost_ns, 0);
  print_number("all_connected_ns", last_ready_ns, 0);
  print_number("all_received_ns", last_complete_ns, 0);
  print_number("all_settled_ns", last_settled_ns, 0);
  print_number("received_complete", complete_count, 0);
  print_number("settled", settled_count, 0);
  print_number("dial_failures", tally.refused, 0);
  print_number("reordered_back", tally.reordered, 0);
  print_number("comeback_load_share", own_share(&from, &to), 3);
}

int main(int argc, char **argv) {
  parse_options(argc, argv);
  signal(SIGPIPE, SIG_IGN);
  net_start();
  if (opt.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(opt.cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) perror("loadgen: --cpu");
  }
  conns = calloc(opt.connections + opt.publishers, sizeof *conns);
  for (int i = 0; i < opt.connections + opt.publishers; i++) {
    conns[i].index = i < opt.connections ? i : i - opt.connections;
    conns[i].kind = i < opt.connections ? SUBSCRIBER : PUBLISHER;
  }
  acknowledging = opt.ack && !opt.comeback;
  printf("{\"connections\":%d", opt.connections);
  if (opt.connections) connect_all();
  if (opt.hold > 0) hold();
  if (opt.publishers) publish_phase();
  if (opt.comeback) come_back();
  printf("}\n");
  return 0;
}
