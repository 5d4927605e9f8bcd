/* A panic inside the library, in every function and in an operation: a code, and everything goes on. */
#include "check.h"
#include "testing.h"

static iicp_error *err;

/* That a call that panics returns PANIC, and that the same call afterwards does not. */
#define PANICS(call)                                                                                                   \
    do {                                                                                                               \
        iicp_test_panic_next();                                                                                        \
        FAILS(call, IICP_PANIC);                                                                                       \
        CHECK((call) != IICP_PANIC, "once only");                                                                      \
        iicp_error_free(err);                                                                                          \
        err = NULL;                                                                                                    \
    } while (0)

/* The same of a call that takes no place for an error. */
#define PANICS_TOO(call)                                                                                               \
    do {                                                                                                               \
        iicp_test_panic_next();                                                                                        \
        CODE(call, IICP_PANIC);                                                                                        \
        CHECK((call) != IICP_PANIC, "once only");                                                                      \
    } while (0)

/* The same of an accessor: it shows nothing. */
#define SHOWS_NOTHING(expression)                                                                                      \
    do {                                                                                                               \
        iicp_test_panic_next();                                                                                        \
        CHECK(expression);                                                                                             \
        CHECK(!(expression), "once only");                                                                             \
    } while (0)

static void a_panic_in_a_function_is_a_code(void) {
    iicp_runtime runtime = {0};
    iicp_queue queue = {0}, none = {0};
    iicp_client client = {0};
    iicp_event *event = NULL, *events[4];
    size_t count = 0;
    int32_t fd = 0;
    PANICS(iicp_runtime_new(IICP_ABI_VERSION, NOTHING, &runtime, &err));
    PANICS(iicp_queue_new(runtime, NOTHING, &queue, &err));
    PANICS(iicp_client_new(runtime, NOTHING, &client, &err));
    PANICS(iicp_queue_next(queue, 0, &event, &err));
    PANICS(iicp_queue_drain(queue, events, 4, &count, &err));
    PANICS(iicp_queue_fd(queue, &fd, &err));
    PANICS(iicp_queue_on_wake(queue, NULL, NULL, NULL, &err));
    PANICS(iicp_client_discover(client, queue, NOTHING, 0, NULL, &err));
    PANICS(iicp_client_submit(client, queue, NOTHING, iicp_body("{}"), 0, NULL, &err));
    PANICS(iicp_client_chat(client, queue, NOTHING, 0, NULL, &err));
    PANICS(iicp_client_infer(client, queue, 1, NOTHING, iicp_body("{}"), 0, NULL, &err));
    PANICS(iicp_client_infer_wait(client, 1, NOTHING, iicp_body("{}"), &event, &err));
    PANICS(iicp_rank_finish(1, NOTHING, &err));
    PANICS(iicp_client_discover_wait(client, NOTHING, &event, &err));
    PANICS(iicp_client_submit_wait(client, NOTHING, iicp_body("{}"), &event, &err));
    PANICS(iicp_client_chat_wait(client, NOTHING, &event, &err));
    PANICS(iicp_node_serve(queue, NOTHING, 0, NULL, &err));
    PANICS(iicp_node_status((iicp_node){1}, &event, &err));
    PANICS(iicp_node_nat_report((iicp_node){1}, &event, &err));
    PANICS(iicp_node_close((iicp_node){1}, queue, 0, 0, NULL, &err));
    PANICS(iicp_task_finish(1, NOTHING, iicp_body("{}"), &err));
    PANICS(iicp_task_fail(1, IICP_BACKEND, NOTHING, &err));
    PANICS(iicp_directory_bind(queue, iicp_text("!"), 0, NULL, &err));
    PANICS(iicp_directory_close((iicp_directory){1}, queue, 0, 0, NULL, &err));
    PANICS(iicp_op_cancel(1, &err));
    PANICS(iicp_queue_close(queue, &err));
    PANICS_TOO(iicp_queue_free(none));
    PANICS_TOO(iicp_client_close(client));
    PANICS(iicp_runtime_shutdown(runtime, 1000, &err));
    PANICS_TOO(iicp_runtime_free(runtime));
}

static void a_panic_in_an_accessor_shows_nothing(void) {
    iicp_runtime runtime = new_runtime();
    iicp_queue queue = new_queue(runtime);
    OK(iicp_test_script(queue, iicp_text("{\"chunks\":1,\"chunk_bytes\":1,\"fail_code\":4001}"), 3, NULL, NULL));
    iicp_event *chunk = take(queue, IICP_EVENT_CHUNK), *last = take(queue, IICP_EVENT_DONE);
    SHOWS_NOTHING(iicp_event_kind_of(chunk) == 0);
    SHOWS_NOTHING(iicp_event_id(chunk) == 0);
    SHOWS_NOTHING(iicp_event_tag(chunk) == 0);
    SHOWS_NOTHING(iicp_event_json(chunk).len == 0);
    SHOWS_NOTHING(iicp_event_body(chunk).len == 0);
    SHOWS_NOTHING(iicp_event_error(last) == NULL);
    const iicp_error *error = iicp_event_error(last);
    SHOWS_NOTHING(iicp_error_code(error) == IICP_OK);
    SHOWS_NOTHING(iicp_error_name(error).len == 0);
    SHOWS_NOTHING(iicp_error_message(error).len == 0);
    SHOWS_NOTHING(iicp_error_json(error).len == 0);
    SHOWS_NOTHING(iicp_error_retryable(error) == 0);
    SHOWS_NOTHING(iicp_code_name(IICP_CLOSED).len == 0);
    iicp_event_free(chunk);
    iicp_event_free(last);
    OK(iicp_runtime_free(runtime));
}

static void a_panic_in_an_operation_ends_that_operation(void) {
    iicp_runtime runtime = new_runtime();
    iicp_queue queue = new_queue(runtime);
    uint64_t before = alive(runtime);
    for (int i = 0; i < 50; i++) {
        OK(iicp_test_script(queue, iicp_text("{\"panic_after\":0}"), 0, NULL, NULL));
        CODE(done(queue, NULL), IICP_PANIC);
        OK(iicp_test_script(queue, NOTHING, 0, NULL, NULL));
        OK(done(queue, NULL));
    }
    CHECK(alive(runtime) == before);
    OK(iicp_runtime_free(runtime));
}

int main(int argc, char **argv) {
    RUN(a_panic_in_a_function_is_a_code);
    RUN(a_panic_in_an_accessor_shows_nothing);
    RUN(a_panic_in_an_operation_ends_that_operation);
    return 0;
}
