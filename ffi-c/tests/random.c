/*
 * Threads that call anything with anything: living, dead, foreign and made-up ids, good and bad texts. Nothing may crash
 * or hang, and at the end nothing may be left.
 */
#include "check.h"
#include "testing.h"
#include <pthread.h>
#include <unistd.h>

enum { THREADS = 4, IDS = 64 };
static int rounds = 50000;
static iicp_runtime runtime;
static uint64_t ids[IDS]; /* of everything that was made, whatever it is and whether or not it lives */

static uint32_t next(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

static iicp_str any_text(uint32_t *state) {
    static const char *const texts[] = {
        "", "{}", "{\"intent\":\"" IICP_CHAT "\",\"timeout_ms\":50}", "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
        "{\"directory\":\"http://127.0.0.1:1\"}", "{\"external_ranker\":true}", "{\"prompt\":\"x\"}", "{\"error\":\"no\"}",
        "{\"intents\":[\"" IICP_CHAT "\"],\"directory\":\"http://127.0.0.1:1\"}",
        "{\"hang\":true}", "{\"chunks\":3}", "{\"fail_code\":4001}", "{\"panic_after\":0}", "\xff", "[", "null",
    };
    uint32_t one = next(state) % (sizeof texts / sizeof *texts + 2);
    if (one == 0) return (iicp_str){NULL, 7};
    if (one == 1) return (iicp_str){"x", SIZE_MAX};
    return iicp_text(texts[one - 2]);
}

static uint64_t any_id(uint32_t *state) {
    uint64_t id = __atomic_load_n(&ids[next(state) % IDS], __ATOMIC_RELAXED);
    switch (next(state) % 16) {
    case 0: return id ^ (1ULL << (next(state) % 64));
    case 1: return 0;
    default: return id;
    }
}

static void keep(uint32_t *state, uint64_t id) {
    if (id) __atomic_store_n(&ids[next(state) % IDS], id, __ATOMIC_RELAXED);
}

static void call_something(uint32_t *state) {
    iicp_error *err = NULL, **where = next(state) % 4 ? &err : NULL;
    iicp_event *events[8] = {NULL};
    size_t count = 0;
    uint64_t op = 0, id = any_id(state);
    int32_t fd = 0;
    iicp_queue queue = {any_id(state)}, new_queue = {0};
    iicp_client client = {any_id(state)}, new_client = {0};
    iicp_str text = any_text(state), other = any_text(state);
    iicp_bytes body = {(const uint8_t *)other.ptr, other.len};
    iicp_code code = IICP_OK;
    switch (next(state) % 27) {
    case 0: case 1: code = iicp_queue_new(runtime, text, &new_queue, where); break;
    case 2: code = iicp_client_new(runtime, text, &new_client, where); break;
    case 3: code = iicp_queue_next(queue, (int32_t)(next(state) % 2), &events[0], where); break;
    case 4: case 5: code = iicp_queue_drain(queue, events, next(state) % 9, &count, where); break;
    case 6: code = iicp_queue_fd(queue, &fd, where); break;
    case 7: code = iicp_queue_on_wake(queue, NULL, NULL, NULL, where); break;
    case 8: code = iicp_queue_close(queue, where); break;
    case 9: code = iicp_queue_free(queue); break;
    case 10: code = iicp_client_discover(client, queue, text, id, &op, where); break;
    case 11: code = iicp_client_submit(client, queue, text, body, id, &op, where); break;
    case 12: code = iicp_client_chat(client, queue, text, id, &op, where); break;
    case 13: code = iicp_client_close(client); break;
    case 14: code = iicp_client_submit_wait(client, text, body, &events[0], where); break;
    case 15: code = iicp_node_serve(queue, text, id, &op, where); break;
    case 16: code = iicp_node_status((iicp_node){id}, &events[0], where); break;
    case 17: code = iicp_node_close((iicp_node){id}, queue, 0, 0, &op, where); break;
    case 18: code = iicp_task_finish(id, text, body, where); break;
    case 19: code = iicp_task_fail(id, (iicp_code)next(state), text, where); break;
    case 20: code = iicp_directory_close((iicp_directory){id}, queue, 0, 0, &op, where); break;
    case 21: code = iicp_op_cancel(id, where); break;
    case 22: code = iicp_client_infer(client, queue, (iicp_inference)(next(state) % 8), text, body, id, &op, where); break;
    case 23: code = iicp_client_infer_wait(client, (iicp_inference)(next(state) % 8), text, body, &events[0], where); break;
    case 24: code = iicp_rank_finish(id, text, where); break;
    default: code = iicp_test_script(queue, text, id, &op, where);
    }
    CHECK(iicp_code_name(code).len > 0 && (!err || iicp_error_code(err) == code), "%d", code);
    if (count == 0 && events[0]) count = 1;
    for (size_t i = 0; i < count; i++) {
        keep(state, iicp_event_handle(events[i]));
        iicp_event_free(events[i]);
    }
    keep(state, new_queue.id);
    keep(state, new_client.id);
    keep(state, op);
    iicp_error_free(err);
}

static void *call_anything(void *seed) {
    uint32_t state = *(uint32_t *)seed;
    for (int i = 0; i < rounds; i++) call_something(&state);
    return NULL;
}

static void no_sequence_of_calls_does_harm(void) {
    runtime = new_runtime();
    pthread_t threads[THREADS];
    uint32_t seeds[THREADS];
    for (int i = 0; i < THREADS; i++) {
        seeds[i] = 0x9e3779b9u * (uint32_t)(i + 1);
        CHECK(pthread_create(&threads[i], NULL, call_anything, &seeds[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    OK(iicp_runtime_shutdown(runtime, 20000, NULL));
    OK(iicp_runtime_free(runtime));
}

int main(int argc, char **argv) {
    if (getenv("IICP_TEST_ROUNDS")) rounds = atoi(getenv("IICP_TEST_ROUNDS"));
    alarm(300);
    RUN(no_sequence_of_calls_does_harm);
    return 0;
}
