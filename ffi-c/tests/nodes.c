/* Client, node and directory in one process: answers, refusals, late and wrong answers, and nodes that close. */
#include "mesh.h"

static const char *const CHAT_OPTIONS = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}";
static iicp_error *err;

static void a_task_is_answered_with_what_the_handler_says(void) {
    struct mesh mesh = new_mesh("");
    uint64_t op = submit(&mesh, "{\"say\":\"\xc3\xa4\"}", 9);
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
    CHECK(strstr(iicp_event_json(task).ptr, "\"intent\":\"" IICP_CHAT "\""), "%s", iicp_event_json(task).ptr);
    CHECK(strstr(iicp_event_json(task).ptr, "\"deadline_ms\":"), "%s", iicp_event_json(task).ptr);
    CHECK(strstr(iicp_event_json(task).ptr, "\"priority\":\"normal\""), "%s", iicp_event_json(task).ptr);
    CHECK(strstr(iicp_event_json(task).ptr, "\"verified\":false,\"verified_node_id\":null"), "%s", iicp_event_json(task).ptr);
    CHECK(strstr(iicp_event_json(task).ptr, "\"tracestate\":null"), "%s", iicp_event_json(task).ptr);
    iicp_bytes body = iicp_event_body(task);
    CHECK(body.len == 12 && memcmp(body.ptr, "{\"say\":\"\xc3\xa4\"}", 12) == 0);
    OK(iicp_task_finish(iicp_event_id(task), iicp_text("{\"tokens_used\":3}"), body, &err));
    FAILS(iicp_task_finish(iicp_event_id(task), NOTHING, body, &err), IICP_STALE_ID);
    FAILS(iicp_task_fail(iicp_event_id(task), IICP_BACKEND, NOTHING, &err), IICP_STALE_ID);
    iicp_event *answer = take(mesh.asking, IICP_EVENT_DONE);
    CHECK(!iicp_event_error(answer), "%s", iicp_error_message(iicp_event_error(answer)).ptr);
    CHECK(iicp_event_id(answer) == op && iicp_event_tag(answer) == 9);
    CHECK(iicp_event_body(answer).len == 12 && memcmp(iicp_event_body(answer).ptr, body.ptr, 12) == 0);
    CHECK(strstr(iicp_event_json(answer).ptr, "\"attempts\":1"), "%s", iicp_event_json(answer).ptr);
    iicp_event_free(task);
    iicp_event_free(answer);
    OK(iicp_runtime_free(mesh.runtime));
}

static void a_failure_stays_private_and_a_refusal_is_read(void) {
    struct mesh mesh = new_mesh("");
    const struct { iicp_code code, seen; int shown; } answers[] = {
        {IICP_BACKEND, IICP_BACKEND, 0},
        {IICP_TASK_REJECTED, IICP_TASK_REJECTED, 1},
        {IICP_INTERNAL, IICP_BACKEND, 0},
    };
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        submit(&mesh, "{}", 0);
        iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
        OK(iicp_task_fail(iicp_event_id(task), answers[i].code, iicp_text("the canary sings"), &err));
        iicp_event *answer = take(mesh.asking, IICP_EVENT_DONE);
        const iicp_error *why = iicp_event_error(answer);
        CODE(iicp_error_code(why), answers[i].seen);
        CHECK(!strstr(iicp_error_message(why).ptr, "canary") == !answers[i].shown, "%s", iicp_error_message(why).ptr);
        iicp_event_free(task);
        iicp_event_free(answer);
    }
    /* What is no answer at all. */
    submit(&mesh, "{}", 0);
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
    FAILS(iicp_task_fail(iicp_event_id(task), 4242, NOTHING, &err), IICP_INVALID_ARG);
    CODE(done(mesh.asking, NULL), IICP_BACKEND);
    iicp_event_free(task);
    submit(&mesh, "{}", 0);
    task = take(mesh.serving, IICP_EVENT_TASK);
    FAILS(iicp_task_finish(iicp_event_id(task), NOTHING, iicp_body("no JSON"), &err), IICP_HANDLER);
    CODE(done(mesh.asking, NULL), IICP_BACKEND);
    iicp_event_free(task);
    OK(iicp_runtime_free(mesh.runtime));
}

static void the_tasks_of_a_backend_come_to_nobody_here(void) {
    /* Nothing listens at port 1, so the backend fails, and not the host. */
    struct mesh mesh = new_mesh(",\"backend\":{\"url\":\"http://127.0.0.1:1/v1\",\"model\":\"parrot\"}");
    submit(&mesh, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", 0);
    CODE(done(mesh.asking, NULL), IICP_BACKEND);
    iicp_event *none = NULL;
    FAILS(iicp_queue_next(mesh.serving, 0, &none, &err), IICP_TIMEOUT);
    OK(iicp_runtime_free(mesh.runtime));
}

static void the_status_of_a_node_can_be_asked(void) {
    struct mesh mesh = new_mesh("");
    iicp_event *status = NULL;
    OK(iicp_node_status(mesh.node, &status, &err));
    // Of a body without bytes the address is one all the same: a garbage collector may find it among its pointers.
    CHECK(iicp_event_body(status).len == 0 && (uintptr_t)iicp_event_body(status).ptr > 0xffff);
    CHECK(strstr(iicp_event_json(status).ptr, "\"registered\":true"), "%s", iicp_event_json(status).ptr);
    CHECK(iicp_event_handle(status) == mesh.node.id);
    iicp_event_free(status);
    OK(iicp_node_nat_report(mesh.node, &status, &err));
    CHECK(strstr(iicp_event_json(status).ptr, "\"rungs\":[]"), "%s", iicp_event_json(status).ptr);
    iicp_event_free(status);
    iicp_event *nodes = NULL;
    OK(iicp_client_discover_wait(mesh.client, iicp_text("{\"intent\":\"" IICP_CHAT "\"}"), &nodes, &err));
    CHECK(strstr(iicp_event_json(nodes).ptr, "\"endpoint\":"), "%s", iicp_event_json(nodes).ptr);
    iicp_event_free(nodes);
    OK(iicp_node_close(mesh.node, mesh.asking, 5000, 4, NULL, &err));
    iicp_event *closed = take(mesh.asking, IICP_EVENT_DONE);
    CHECK(strstr(iicp_event_json(closed).ptr, "\"in_time\":true"), "%s", iicp_event_json(closed).ptr);
    iicp_event_free(closed);
    FAILS(iicp_node_status(mesh.node, &status, &err), IICP_STALE_ID);
    FAILS(iicp_node_nat_report(mesh.node, &status, &err), IICP_STALE_ID);
    FAILS(iicp_node_close(mesh.node, mesh.asking, 0, 0, NULL, &err), IICP_STALE_ID);
    FAILS(iicp_client_chat_wait(mesh.client, iicp_text(CHAT_OPTIONS), &status, &err), IICP_NO_NODES);
    OK(iicp_directory_close(mesh.directory, mesh.asking, 5000, 0, NULL, &err));
    OK(done(mesh.asking, NULL));
    FAILS(iicp_directory_close(mesh.directory, mesh.asking, 0, 0, NULL, &err), IICP_STALE_ID);
    OK(iicp_runtime_free(mesh.runtime));
}

static void a_cancelled_task_reaches_the_handler(void) {
    struct mesh mesh = new_mesh("");
    uint64_t op = submit(&mesh, "{}", 0);
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
    OK(iicp_op_cancel(op, &err));
    CODE(done(mesh.asking, NULL), IICP_CANCELLED);
    FAILS(iicp_op_cancel(op, &err), IICP_STALE_ID);
    iicp_event *cancel = take(mesh.serving, IICP_EVENT_TASK_CANCEL);
    CHECK(iicp_event_id(cancel) == iicp_event_id(task));
    FAILS(iicp_task_finish(iicp_event_id(task), NOTHING, iicp_body("{}"), &err), IICP_STALE_ID);
    iicp_event_free(task);
    iicp_event_free(cancel);
    OK(iicp_runtime_free(mesh.runtime));
}

static void a_handler_that_hangs_costs_its_task_and_not_its_slot(void) {
    struct mesh mesh = new_mesh(",\"max_concurrent\":1");
    for (int i = 0; i < 3; i++) {
        iicp_str task = iicp_text("{\"intent\":\"" IICP_CHAT "\",\"timeout_ms\":300}");
        OK(iicp_client_submit(mesh.client, mesh.asking, task, iicp_body("{}"), 0, NULL, NULL));
        iicp_event_free(take(mesh.serving, IICP_EVENT_TASK));
        iicp_event_free(take(mesh.serving, IICP_EVENT_TASK_CANCEL));
        iicp_code code = done(mesh.asking, NULL);
        CHECK(code == IICP_TASK_TIMEOUT || code == IICP_TIMEOUT, "%s", iicp_code_name(code).ptr);
    }
    OK(iicp_runtime_free(mesh.runtime));
}

/* Many tasks wait when the node closes, and are answered all the same. */
static void a_node_closed_mid_task_tells_both_sides_once(void) {
    int rounds = getenv("IICP_TEST_ROUNDS") ? 3 : 30;
    struct mesh mesh = new_mesh(",\"max_concurrent\":64");
    uint64_t before = alive(mesh.runtime);
    for (int round = 0; round < rounds; round++) {
        uint64_t tasks[64];
        for (int i = 0; i < 64; i++) submit(&mesh, "{}", 0);
        for (int i = 0; i < 64; i++) {
            iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
            tasks[i] = iicp_event_id(task);
            iicp_event_free(task);
        }
        for (int i = 0; i < 16; i++) OK(iicp_task_finish(tasks[i], NOTHING, iicp_body("{}"), NULL));
        OK(iicp_node_close(mesh.node, mesh.serving, 0, 5, NULL, &err));
        int answered = 16, withdrawn = 0, closed = 0;
        for (int i = 16; i < 64; i++) {
            iicp_code code = iicp_task_finish(tasks[i], NOTHING, iicp_body("{}"), NULL);
            CHECK(code == IICP_OK || code == IICP_STALE_ID, "%s", iicp_code_name(code).ptr);
            answered += code == IICP_OK;
        }
        while (answered + withdrawn < 64 || !closed) {
            iicp_event *event = NULL;
            OK(iicp_queue_next(mesh.serving, LONG, &event, NULL));
            withdrawn += iicp_event_kind_of(event) == IICP_EVENT_TASK_CANCEL;
            closed += iicp_event_kind_of(event) == IICP_EVENT_DONE && iicp_event_tag(event) == 5;
            iicp_event_free(event);
        }
        for (int i = 0; i < 64; i++) done(mesh.asking, NULL);
        CODE(iicp_queue_next(mesh.serving, 0, &(iicp_event *){NULL}, NULL), IICP_TIMEOUT);
        mesh.node = new_node(mesh.serving, mesh.url, ",\"max_concurrent\":64");
        OK(iicp_client_close(mesh.client));
        mesh.client = new_client(mesh.runtime, mesh.url);
        CHECK(alive(mesh.runtime) == before, "%llu", (unsigned long long)alive(mesh.runtime));
    }
    OK(iicp_runtime_free(mesh.runtime));
}

static void a_node_may_be_closed_by_who_serves_its_task(void) {
    struct mesh mesh = new_mesh("");
    submit(&mesh, "{}", 0);
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
    OK(iicp_node_close(mesh.node, mesh.serving, 20000, 8, NULL, &err));
    FAILS(iicp_node_close(mesh.node, mesh.serving, 20000, 8, NULL, &err), IICP_STALE_ID);
    OK(iicp_task_finish(iicp_event_id(task), NOTHING, iicp_body("{\"last\":true}"), &err));
    OK(done(mesh.asking, NULL));
    iicp_event *closed = take(mesh.serving, IICP_EVENT_DONE);
    CHECK(strstr(iicp_event_json(closed).ptr, "\"in_time\":true"), "%s", iicp_event_json(closed).ptr);
    iicp_event_free(closed);
    iicp_event_free(task);
    OK(iicp_runtime_free(mesh.runtime));
}

static void a_huge_answer_is_an_error_of_its_task_alone(void) {
    /* Instrumented, to read it takes longer than a task may. */
    size_t size = (size_t)(getenv("IICP_TEST_ROUNDS") ? 2 : 40) << 20;
    struct mesh mesh = new_mesh("");
    OK(iicp_client_close(mesh.client));
    char options[256], *huge = malloc(size);
    snprintf(options, sizeof options, "{\"directory\":\"%s\",\"max_response_bytes\":1048576}", mesh.url);
    OK(iicp_client_new(mesh.runtime, iicp_text(options), &mesh.client, &err));
    memset(huge, 'x', size);
    huge[0] = huge[size - 1] = '"';
    submit(&mesh, "{}", 0);
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
    OK(iicp_task_finish(iicp_event_id(task), NOTHING, (iicp_bytes){(const uint8_t *)huge, size}, &err));
    CODE(done(mesh.asking, NULL), IICP_RESPONSE_TOO_LARGE);
    iicp_event_free(task);
    free(huge);
    submit(&mesh, "{}", 0);
    task = take(mesh.serving, IICP_EVENT_TASK);
    OK(iicp_task_finish(iicp_event_id(task), NOTHING, iicp_body("{}"), &err));
    OK(done(mesh.asking, NULL));
    iicp_event_free(task);
    OK(iicp_runtime_free(mesh.runtime));
}

int main(int argc, char **argv) {
    RUN(a_task_is_answered_with_what_the_handler_says);
    RUN(a_failure_stays_private_and_a_refusal_is_read);
    RUN(the_tasks_of_a_backend_come_to_nobody_here);
    RUN(the_status_of_a_node_can_be_asked);
    RUN(a_cancelled_task_reaches_the_handler);
    RUN(a_handler_that_hangs_costs_its_task_and_not_its_slot);
    RUN(a_node_closed_mid_task_tells_both_sides_once);
    RUN(a_node_may_be_closed_by_who_serves_its_task);
    RUN(a_huge_answer_is_an_error_of_its_task_alone);
    return 0;
}
