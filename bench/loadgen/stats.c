// Histograms, /proc, JSON.
#define _GNU_SOURCE
#include "loadgen.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

void observe(Histogram *h, uint64_t ns) {
  // Values below 64 have a bucket each; above, the six bits after the leading one choose it.
  int power = ns < 64 ? 0 : 63 - __builtin_clzll(ns) - 5;
  h->bucket[power * 64 + (ns >> power & 63)]++;
  h->count++;
  if (ns > h->max) h->max = ns;
}

double percentile_ms(const Histogram *h, double share) {
  uint64_t wanted = h->count * share, seen = 0;
  for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
    seen += h->bucket[i];
    if (seen > wanted) {
      uint64_t value = ((uint64_t)(i % 64) + 1) << (i / 64); // upper edge: never flattering
      return (value < h->max ? value : h->max) / 1e6;
    }
  }
  return h->max / 1e6;
}

void print_histogram(const char *name, const Histogram *h) {
  if (!h->count) return;
  printf(",\n \"%s\":{\"count\":%llu,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}", name,
         (unsigned long long)h->count, percentile_ms(h, 0.5), percentile_ms(h, 0.9), percentile_ms(h, 0.99),
         percentile_ms(h, 0.999), h->max / 1e6);
}

void print_number(const char *name, double value, int decimals) { printf(",\n \"%s\":%.*f", name, decimals, value); }

long memory_kb(int pid, const char *field) {
  char path[64], line[256];
  long kb = 0;
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  while (fgets(line, sizeof line, f))
    if (!strncmp(line, field, strlen(field))) kb = atol(line + strlen(field) + 1);
  fclose(f);
  return kb;
}

double own_cpu_seconds(void) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

// From the scheduler's own clock: /proc/PID/stat counts in ticks of 10 ms, too coarse for an idle server.
double process_cpu_seconds(int pid) {
  clockid_t clock;
  struct timespec t;
  if (!pid || clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t)) return 0;
  return t.tv_sec + t.tv_nsec / 1e9;
}

// CPU seconds that the host gave to others while this machine wanted them (proc(5), `steal`), all cores together.
static double stolen_seconds(void) {
  unsigned long long steal = 0;
  FILE *f = fopen("/proc/stat", "r");
  if (!f) return 0;
  if (fscanf(f, "cpu %*u %*u %*u %*u %*u %*u %*u %llu", &steal) != 1) steal = 0;
  fclose(f);
  return steal / (double)sysconf(_SC_CLK_TCK);
}

void snapshot(Tally *to) {
  tally.time_ns = now_ns();
  tally.own_cpu = own_cpu_seconds();
  tally.server_cpu = process_cpu_seconds(opt.server_pid);
  tally.stolen = stolen_seconds();
  *to = tally;
}
