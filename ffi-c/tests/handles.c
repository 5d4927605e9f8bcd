/* Handles and owned memory: freed twice, used afterwards, from other threads, in any order, while a call is inside. */
#include "check.h"
#include "testing.h"
#include <poll.h>
#include <pthread.h>

/* How often; under valgrind less. */
static int rounds = 20000;

static void a_handle_that_was_freed_is_a_code(void) {
    iicp_error *err = NULL;
    iicp_runtime runtime = new_runtime();
    iicp_queue queue = new_queue(runtime);
    iicp_client client = new_client(runtime, "http://127.0.0.1:1");
    iicp_event *event = NULL;
    OK(iicp_client_close(client));
    CODE(iicp_client_close(client), IICP_STALE_ID);
    FAILS(iicp_client_chat(client, queue, NOTHING, 0, NULL, &err), IICP_STALE_ID);
    OK(iicp_queue_free(queue));
    CODE(iicp_queue_free(queue), IICP_STALE_ID);
    FAILS(iicp_queue_next(queue, 0, &event, &err), IICP_STALE_ID);
    queue = new_queue(runtime);
    OK(iicp_runtime_free(runtime));
    CODE(iicp_runtime_free(runtime), IICP_STALE_ID);
    FAILS(iicp_queue_next(queue, 0, &event, &err), IICP_STALE_ID);
    CODE(iicp_queue_free(queue), IICP_STALE_ID);
    FAILS(iicp_queue_new(runtime, NOTHING, &queue, &err), IICP_STALE_ID);
}

static void handles_of_two_runtimes_never_mix(void) {
    iicp_error *err = NULL;
    iicp_runtime one = new_runtime(), two = new_runtime();
    iicp_queue queue_one = new_queue(one), queue_two = new_queue(two);
    iicp_client client = new_client(one, "http://127.0.0.1:1");
    CHECK(one.id != two.id && queue_one.id != queue_two.id);
    iicp_str chat = iicp_text("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}");
    FAILS(iicp_client_chat(client, queue_two, chat, 0, NULL, &err), IICP_STALE_ID);
    hang(queue_one, 1);
    OK(iicp_runtime_free(two));
    OK(iicp_queue_close(queue_one, NULL));
    CODE(done(queue_one, NULL), IICP_CLOSED);
    OK(iicp_runtime_free(one));
}

static void many_come_and_go_and_nothing_stays(void) {
    iicp_runtime runtime = new_runtime();
    iicp_queue queue = new_queue(runtime);
    uint64_t before = alive(runtime);
    for (int i = 0; i < rounds; i++) {
        iicp_queue other = new_queue(runtime);
        uint64_t op = 0;
        OK(iicp_test_script(other, NOTHING, 7, &op, NULL));
        if (i % 2) OK(done(other, NULL));
        OK(iicp_queue_free(other));
        if (i % 16 == 0) OK(iicp_client_close(new_client(runtime, "http://127.0.0.1:1")));
    }
    while (alive(runtime) != before) poll(NULL, 0, 1); /* a freed queue's operations are ended by their own thread */
    OK(iicp_queue_free(queue));
    OK(iicp_runtime_free(runtime));
    for (int i = 0; i < rounds / 400; i++) OK(iicp_runtime_free(new_runtime()));
}

static void *free_from_here(void *handle) {
    OK(iicp_queue_free(*(iicp_queue *)handle));
    return NULL;
}

static void a_queue_freed_while_a_thread_waits_in_it_lets_it_go(void) {
    iicp_runtime runtime = new_runtime();
    for (int i = 0; i < rounds / 200; i++) {
        iicp_queue queue = new_queue(runtime);
        iicp_event *event = NULL;
        pthread_t other;
        CHECK(pthread_create(&other, NULL, free_from_here, &queue) == 0);
        iicp_code code = iicp_queue_next(queue, LONG, &event, NULL);
        CHECK(code == IICP_CLOSED || code == IICP_STALE_ID, "%s", iicp_code_name(code).ptr);
        pthread_join(other, NULL);
    }
    OK(iicp_runtime_free(runtime));
}

static void *free_runtime_from_here(void *handle) {
    OK(iicp_runtime_free(*(iicp_runtime *)handle));
    return NULL;
}

static void a_runtime_freed_while_a_thread_waits_in_it_lets_it_go(void) {
    for (int i = 0; i < rounds / 2000; i++) {
        iicp_runtime runtime = new_runtime();
        iicp_queue queue = new_queue(runtime);
        iicp_event *event = NULL;
        hang(queue, 1);
        pthread_t other;
        CHECK(pthread_create(&other, NULL, free_runtime_from_here, &runtime) == 0);
        iicp_code code = iicp_queue_next(queue, LONG, &event, NULL);
        if (code == IICP_OK) {
            CODE(iicp_error_code(iicp_event_error(event)), IICP_CLOSED);
            iicp_event_free(event);
        } else {
            CHECK(code == IICP_CLOSED || code == IICP_STALE_ID, "%s", iicp_code_name(code).ptr);
        }
        pthread_join(other, NULL);
    }
}

/* One thread of several that free the same handles at the same time. */
struct crowd {
    iicp_queue queues[64];
    uint64_t ops[64];
    int freed[64];
};

static void *free_all(void *given) {
    struct crowd *crowd = given;
    for (int i = 0; i < 64; i++) {
        iicp_op_cancel(crowd->ops[i], NULL);
        iicp_code code = iicp_queue_free(crowd->queues[i]);
        CHECK(code == IICP_OK || code == IICP_STALE_ID);
        if (code == IICP_OK) __atomic_add_fetch(&crowd->freed[i], 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void of_many_threads_that_free_one_handle_exactly_one_does(void) {
    iicp_runtime runtime = new_runtime();
    for (int round = 0; round < rounds / 1000; round++) {
        struct crowd crowd = {0};
        for (int i = 0; i < 64; i++) {
            crowd.queues[i] = new_queue(runtime);
            crowd.ops[i] = hang(crowd.queues[i], 0);
        }
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, free_all, &crowd) == 0);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
        for (int i = 0; i < 64; i++) CHECK(crowd.freed[i] == 1, "queue %d was freed %d times", i, crowd.freed[i]);
    }
    OK(iicp_runtime_free(runtime));
}

static void handles_may_be_freed_in_any_order(void) {
    srand(7);
    for (int round = 0; round < rounds / 400; round++) {
        iicp_runtime runtime = new_runtime();
        iicp_queue queues[4];
        iicp_client clients[4];
        for (int i = 0; i < 4; i++) {
            queues[i] = new_queue(runtime);
            clients[i] = new_client(runtime, "http://127.0.0.1:1");
            hang(queues[i], 0);
        }
        for (int step = 0; step < 12; step++) {
            int i = rand() % 4;
            switch (rand() % 8) {
            case 0: iicp_runtime_free(runtime); break;
            case 1: case 2: case 3: iicp_queue_free(queues[i]); break;
            default: iicp_client_close(clients[i]);
            }
        }
        iicp_runtime_free(runtime);
    }
}

static void events_and_errors_outlive_what_they_came_from(void) {
    iicp_error *err = NULL;
    iicp_runtime runtime = new_runtime();
    iicp_queue queue = new_queue(runtime);
    OK(iicp_test_script(queue, iicp_text("{\"chunks\":1,\"chunk_bytes\":9}"), 5, NULL, NULL));
    iicp_event *event = take(queue, IICP_EVENT_CHUNK);
    CODE(iicp_test_script(queue, iicp_text("!"), 5, NULL, &err), IICP_CONFIG_INVALID);
    OK(iicp_runtime_free(runtime));
    CHECK(iicp_event_body(event).len == 9 && memcmp(iicp_event_body(event).ptr, "xxxxxxxxx", 9) == 0);
    CHECK(strcmp(iicp_event_json(event).ptr, "{\"seq\":0}") == 0 && iicp_event_tag(event) == 5);
    CHECK(iicp_error_message(err).len == strlen(iicp_error_message(err).ptr));
    iicp_event_free(event);
    iicp_error_free(err);
}

static void the_descriptor_is_readable_while_there_are_events(void) {
    iicp_runtime runtime = new_runtime();
    iicp_queue queue = new_queue(runtime);
    int32_t fd = -1;
    OK(iicp_queue_fd(queue, &fd, NULL));
    struct pollfd watch = {fd, POLLIN, 0};
    CHECK(poll(&watch, 1, 0) == 0);
    OK(iicp_test_script(queue, iicp_text("{\"chunks\":299}"), 0, NULL, NULL));
    size_t taken = 0, calls = 0;
    while (taken < 300) {
        iicp_event *events[400];
        size_t count = 0;
        CHECK(poll(&watch, 1, LONG) == 1);
        OK(iicp_queue_drain(queue, events, 400, &count, NULL));
        CHECK(count > 0 && count <= 256, "%zu events at once", count);
        for (size_t i = 0; i < count; i++) iicp_event_free(events[i]);
        taken += count;
        calls++;
    }
    CHECK(calls >= 2 && poll(&watch, 1, 0) == 0);
    OK(iicp_runtime_free(runtime));
}

/* What a doorbell does to its data. */
struct bell { int rings, drops; };
static void ring(void *data) { __atomic_add_fetch(&((struct bell *)data)->rings, 1, __ATOMIC_SEQ_CST); }
static void drop(void *data) { __atomic_add_fetch(&((struct bell *)data)->drops, 1, __ATOMIC_SEQ_CST); }
static iicp_queue rung;
static int refused;
static void misuse(void *data) {
    iicp_event *event = NULL;
    if (iicp_queue_next(rung, 0, &event, NULL) == IICP_INVALID_ARG) refused++;
    ring(data);
}

static void a_doorbell_gives_its_data_back_on_every_path(void) {
    iicp_error *err = NULL;
    iicp_runtime runtime = new_runtime();
    iicp_queue queue = new_queue(runtime);
    struct bell first = {0}, second = {0}, third = {0};
    OK(iicp_queue_on_wake(queue, ring, &first, drop, NULL));
    OK(iicp_test_script(queue, NOTHING, 0, NULL, NULL));
    OK(done(queue, NULL));
    CHECK(first.rings == 1 && first.drops == 0);
    rung = queue;
    OK(iicp_queue_on_wake(queue, misuse, &second, drop, NULL));
    CHECK(first.drops == 1, "replaced");
    OK(iicp_test_script(queue, NOTHING, 0, NULL, NULL));
    OK(done(queue, NULL));
    CHECK(second.rings >= 1 && refused == second.rings, "the library refuses to be called inside a doorbell");
    OK(iicp_queue_free(queue));
    CHECK(second.drops == 1, "freed");
    FAILS(iicp_queue_on_wake(queue, ring, &third, drop, &err), IICP_STALE_ID);
    CHECK(third.drops == 1 && third.rings == 0, "failed");
    FAILS(iicp_queue_on_wake(queue, NULL, &third, drop, &err), IICP_STALE_ID);
    CHECK(third.drops == 2, "nothing to ring");
    OK(iicp_runtime_free(runtime));
}

static void what_is_over_time_says_so(void) {
    iicp_error *err = NULL;
    iicp_runtime runtime = new_runtime();
    iicp_queue queue = new_queue(runtime);
    iicp_event *event = NULL;
    FAILS(iicp_queue_next(queue, 0, &event, &err), IICP_TIMEOUT);
    FAILS(iicp_queue_next(queue, 20, &event, &err), IICP_TIMEOUT);
    hang(queue, 0);
    OK(iicp_runtime_shutdown(runtime, 5000, &err));
    OK(iicp_runtime_shutdown(runtime, 5000, &err));
    FAILS(iicp_client_new(runtime, NOTHING, &(iicp_client){0}, &err), IICP_CLOSED);
    CODE(done(queue, NULL), IICP_CLOSED);
    FAILS(iicp_queue_next(queue, -1, &event, &err), IICP_CLOSED);
    OK(iicp_queue_free(queue));
    OK(iicp_runtime_free(runtime));
    CHECK(!event);
}

int main(int argc, char **argv) {
    if (getenv("IICP_TEST_ROUNDS")) rounds = atoi(getenv("IICP_TEST_ROUNDS"));
    RUN(a_handle_that_was_freed_is_a_code);
    RUN(handles_of_two_runtimes_never_mix);
    RUN(many_come_and_go_and_nothing_stays);
    RUN(a_queue_freed_while_a_thread_waits_in_it_lets_it_go);
    RUN(a_runtime_freed_while_a_thread_waits_in_it_lets_it_go);
    RUN(of_many_threads_that_free_one_handle_exactly_one_does);
    RUN(handles_may_be_freed_in_any_order);
    RUN(events_and_errors_outlive_what_they_came_from);
    RUN(the_descriptor_is_readable_while_there_are_events);
    RUN(a_doorbell_gives_its_data_back_on_every_path);
    RUN(what_is_over_time_says_so);
    return 0;
}
