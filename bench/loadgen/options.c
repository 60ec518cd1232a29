// The command line, the tokens, and the templates.
#include "loadgen.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

Options opt = {
    .host = "127.0.0.1", .path = "/ws", .publish_path = "/notify", .publish_body = "{}", .port = 8000, .batch = 1,
    .dialing = 100, .per_address = 20000, .cpu = -1, .settle = 2, .limit = 120, .window = 0,
};
static char **tokens;
static uint32_t token_count;

static const char HELP[] =
    "loadgen: N WebSocket subscribers and P HTTP publishers in one epoll loop; prints one JSON object.\n"
    "Templates: @C number of the client, @K its token, @T time stamp. A frame with TS=<stamp> is a notification.\n\n"
    "  --host A --port N          the server (127.0.0.1, 8000)\n"
    "  --cpu N                    stay on this core\n"
    "  --server-pid N             report this process's CPU time and memory\n"
    "  --limit S                  give up a phase after S seconds (120)\n"
    "subscribers\n"
    "  --connections N            subscribers (0)\n"
    "  --tokens FILE              one token per line, line i for client i\n"
    "  --path T --header T        the handshake's path and further header lines\n"
    "  --hello T                  text frame sent after the 101\n"
    "  --ready TEXT               joined when a frame holds this (else at the 101)\n"
    "  --text-ping A --text-pong B  answer the text frame A with B\n"
    "  --ack                      answer each notification with {\"type\":\"ack\",\"seq\":N}\n"
    "  --dialing N                handshakes under way at once (100)\n"
    "  --per-address N            sockets per source address 127.0.0.x (20000)\n"
    "  --gather US                look for what has arrived every US microseconds only: fewer wake-ups\n"
    "  --settle S --hold S        let the server rest S seconds, then watch it idle for S seconds\n"
    "publishers\n"
    "  --publishers N             keep-alive HTTP connections (0)\n"
    "  --clients N                recipients, taken in turn (= connections)\n"
    "  --publish-path T --publish-header T --publish-body T\n"
    "  --batch N                  N bodies in one JSON array\n"
    "  --broadcast                each request reaches every subscriber\n"
    "  --window N                 send no request while N notifications are on their way (closed loop)\n"
    "  --rate R                   open loop: R requests/s, delays count from the moment a request was due\n"
    "  --warmup S --seconds S     run for S seconds after a warm-up, or\n"
    "  --count N                  send N requests\n"
    "come-back\n"
    "  --comeback M               publish without acknowledging until each client has M; print {\"armed\":true};\n"
    "                             when the server dies, reconnect until each has its M again and they are settled\n";

enum { HOST = 256, PORT, CPU, SERVER_PID, LIMIT, CONNECTIONS, TOKENS, PATH, HEADER, HELLO, READY_TEXT, TEXT_PING, TEXT_PONG,
       ACK, DIALING, PER_ADDRESS, GATHER, SETTLE, HOLD, PUBLISHERS, CLIENTS, PUBLISH_PATH, PUBLISH_HEADER, PUBLISH_BODY, BATCH,
       BROADCAST, WINDOW, RATE, WARMUP, SECONDS, COUNT, COMEBACK, HELP_FLAG };

static const struct option LONG[] = {
    {"host", 1, 0, HOST}, {"port", 1, 0, PORT}, {"cpu", 1, 0, CPU}, {"server-pid", 1, 0, SERVER_PID},
    {"limit", 1, 0, LIMIT}, {"connections", 1, 0, CONNECTIONS}, {"tokens", 1, 0, TOKENS}, {"path", 1, 0, PATH},
    {"header", 1, 0, HEADER}, {"hello", 1, 0, HELLO}, {"ready", 1, 0, READY_TEXT}, {"text-ping", 1, 0, TEXT_PING},
    {"text-pong", 1, 0, TEXT_PONG}, {"ack", 0, 0, ACK}, {"dialing", 1, 0, DIALING}, {"per-address", 1, 0, PER_ADDRESS},
    {"gather", 1, 0, GATHER}, {"settle", 1, 0, SETTLE}, {"hold", 1, 0, HOLD}, {"publishers", 1, 0, PUBLISHERS},
    {"clients", 1, 0, CLIENTS}, {"publish-path", 1, 0, PUBLISH_PATH}, {"publish-header", 1, 0, PUBLISH_HEADER},
    {"publish-body", 1, 0, PUBLISH_BODY}, {"batch", 1, 0, BATCH}, {"broadcast", 0, 0, BROADCAST},
    {"window", 1, 0, WINDOW}, {"rate", 1, 0, RATE}, {"warmup", 1, 0, WARMUP}, {"seconds", 1, 0, SECONDS},
    {"count", 1, 0, COUNT}, {"comeback", 1, 0, COMEBACK}, {"help", 0, 0, HELP_FLAG}, {0, 0, 0, 0}};

static void usage(const char *problem) {
  fprintf(stderr, "loadgen: %s (--help lists the options)\n", problem);
  exit(2);
}

static void add(const char **list, int *count, const char *value) {
  if (*count == 8) usage("more than 8 header lines");
  list[(*count)++] = value;
}

static void read_tokens(const char *file) {
  FILE *f = fopen(file, "r");
  if (!f) usage("cannot read the tokens");
  char *line = NULL;
  size_t size = 0;
  ssize_t n;
  while ((n = getline(&line, &size, f)) > 0) {
    if (line[n - 1] == '\n') line[n - 1] = 0;
    tokens = realloc(tokens, (token_count + 1) * sizeof *tokens);
    tokens[token_count++] = strdup(line);
  }
  free(line);
  fclose(f);
}

void parse_options(int argc, char **argv) {
  int o;
  while ((o = getopt_long(argc, argv, "", LONG, NULL)) != -1) {
    switch (o) {
      case HOST: opt.host = optarg; break;
      case PORT: opt.port = atoi(optarg); break;
      case CPU: opt.cpu = atoi(optarg); break;
      case SERVER_PID: opt.server_pid = atoi(optarg); break;
      case LIMIT: opt.limit = atof(optarg); break;
      case CONNECTIONS: opt.connections = atoi(optarg); break;
      case TOKENS: opt.tokens = optarg; break;
      case PATH: opt.path = optarg; break;
      case HEADER: add(opt.headers, &opt.header_count, optarg); break;
      case HELLO: opt.hello = optarg; break;
      case READY_TEXT: opt.ready = optarg; break;
      case TEXT_PING: opt.text_ping = optarg; break;
      case TEXT_PONG: opt.text_pong = optarg; break;
      case ACK: opt.ack = true; break;
      case DIALING: opt.dialing = atoi(optarg); break;
      case PER_ADDRESS: opt.per_address = atoi(optarg); break;
      case GATHER: opt.gather = atol(optarg); break;
      case SETTLE: opt.settle = atof(optarg); break;
      case HOLD: opt.hold = atof(optarg); break;
      case PUBLISHERS: opt.publishers = atoi(optarg); break;
      case CLIENTS: opt.clients = atoi(optarg); break;
      case PUBLISH_PATH: opt.publish_path = optarg; break;
      case PUBLISH_HEADER: add(opt.publish_headers, &opt.publish_header_count, optarg); break;
      case PUBLISH_BODY: opt.publish_body = optarg; break;
      case BATCH: opt.batch = atoi(optarg); break;
      case BROADCAST: opt.broadcast = true; break;
      case WINDOW: opt.window = atol(optarg); break;
      case RATE: opt.rate = atof(optarg); break;
      case WARMUP: opt.warmup = atof(optarg); break;
      case SECONDS: opt.seconds = atof(optarg); break;
      case COUNT: opt.count = atol(optarg); break;
      case COMEBACK: opt.comeback = atoi(optarg); break;
      case HELP_FLAG: fputs(HELP, stdout); exit(0);
      default: exit(2);
    }
  }
  if (optind < argc) usage("unexpected argument");
  if (!opt.clients) opt.clients = opt.connections;
  if (opt.publishers && opt.clients < 1) usage("nobody to publish to: --clients or --connections");
  if (opt.publishers && opt.seconds <= 0 && opt.count <= 0 && !opt.comeback) usage("--seconds or --count is missing");
  if (opt.batch < 1 || opt.per_address < 1 || opt.dialing < 1) usage("a size below 1");
  if (opt.gather < 0 || opt.gather > 20000) usage("--gather takes 0 to 20000 microseconds");
  if (opt.tokens) read_tokens(opt.tokens);
}

const char *token_of(uint32_t index) { return token_count ? tokens[index % token_count] : ""; }

size_t expand(char *to, const char *template, uint32_t client, uint64_t stamp) {
  char *start = to;
  for (; *template; template++) {
    if (*template != '@') {
      *to++ = *template;
      continue;
    }
    switch (*++template) {
      case 'C': to += sprintf(to, "%u", client); break;
      case 'K': to = stpcpy(to, token_of(client)); break;
      case 'T':
        for (int i = STAMP_DIGITS - 1; i >= 0; i--, stamp /= 10) to[i] = '0' + stamp % 10;
        to += STAMP_DIGITS;
        break;
      default: *to++ = '@', template--;
    }
  }
  *to = 0;
  return to - start;
}
