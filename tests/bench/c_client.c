/* libiicp as a child of the benches: `c_client DIRECTORY IN_FLIGHT PAYLOAD`. Does what the role `bridge` does, in C. */
#include <iicp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST = 256 };

static iicp_queue queue;
static iicp_client client;
static iicp_bytes payload;

static void check(iicp_code code, const iicp_error *err) {
    if (code == IICP_OK) return;
    printf("{\"failure\":\"%s\"}\n", iicp_code_name(code).ptr);
    fprintf(stderr, "%s\n", iicp_error_message(err).ptr);
    exit(1);
}

static long long nanoseconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void submit(uint64_t tag) {
    iicp_error *err = NULL;
    check(iicp_client_submit(client, queue, iicp_text("{\"intent\":\"" IICP_CHAT "\"}"), payload, tag, NULL, &err), err);
}

static void submit_all(uint64_t count, uint64_t in_flight) {
    iicp_error *err = NULL;
    uint64_t started = 0, done = 0;
    while (started < count && started < in_flight) submit(started++);
    while (done < count) {
        iicp_event *events[MOST + 1];
        size_t taken = 0;
        check(iicp_queue_next(queue, 30000, &events[0], &err), err);
        check(iicp_queue_drain(queue, events + 1, MOST, &taken, &err), err);
        for (size_t i = 0; i <= taken; i++) {
            check(iicp_error_code(iicp_event_error(events[i])), iicp_event_error(events[i]));
            iicp_event_free(events[i]);
            done++;
            if (started < count) submit(started++);
        }
    }
}

int main(int argc, char **argv) {
    char line[64], options[256];
    iicp_error *err = NULL;
    iicp_runtime runtime;
    if (argc != 4) return 2;
    snprintf(options, sizeof options, "{\"directory\":\"%s\",\"routing_policy\":{\"require_encryption\":false}}", argv[1]);
    payload = iicp_body(argv[3]);
    check(iicp_runtime_new(IICP_ABI_VERSION, iicp_text(NULL), &runtime, &err), err);
    check(iicp_queue_new(runtime, iicp_text(NULL), &queue, &err), err);
    check(iicp_client_new(runtime, iicp_text(options), &client, &err), err);
    printf("{}\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        long long cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID), wall = nanoseconds(CLOCK_MONOTONIC);
        submit_all(strtoull(line + strlen("run "), NULL, 10), strtoull(argv[2], NULL, 10));
        cpu = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        wall = nanoseconds(CLOCK_MONOTONIC) - wall;
        printf("{\"cpu_ns\":%lld,\"wall_ns\":%lld}\n", cpu, wall);
        fflush(stdout);
    }
    check(iicp_runtime_free(runtime), NULL);
    return 0;
}
