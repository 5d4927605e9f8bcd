/* Results in parts: they come in order and end once, a host that holds them stops the provider, leaving stops the handler. */
#include "mesh.h"

#include <signal.h>

static const char *const ASK = "{\"messages\":[{\"role\":\"user\",\"content\":\"count\"}]}";
static iicp_error *err;

static uint64_t stream(const struct mesh *mesh) {
    uint64_t op = 0;
    OK(iicp_client_stream(mesh->client, mesh->asking, iicp_text(ASK), iicp_body(NULL), 7, &op, &err));
    return op;
}

static void says(const iicp_event *event, const char *text) {
    CHECK(strstr(iicp_event_json(event).ptr, text), "%s", iicp_event_json(event).ptr);
}

static void parts_come_in_order_and_the_end_tells_the_rest(void) {
    struct mesh mesh = new_mesh("");
    uint64_t op = stream(&mesh);
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
    says(task, "\"takes_events\":true");
    uint64_t id = iicp_event_id(task);
    OK(iicp_task_chunk(id, NOTHING, iicp_body("\"one \""), &err));
    iicp_event *part = take(mesh.asking, IICP_EVENT_CHUNK);
    CHECK(iicp_event_id(part) == op && iicp_event_tag(part) == 7);
    says(part, "\"sequence\":0,\"text\":\"one \",\"tokens_used\":null");
    iicp_event_free(part);
    OK(iicp_task_chunk(id, iicp_text("{\"tokens_used\":2}"), iicp_body("\"two\""), &err));
    part = take(mesh.asking, IICP_EVENT_CHUNK);
    says(part, "\"sequence\":1,\"text\":\"two\",\"tokens_used\":2");
    CHECK(iicp_event_body(part).len == 5 && memcmp(iicp_event_body(part).ptr, "\"two\"", 5) == 0);
    iicp_event_free(part);
    OK(iicp_task_finish(id, iicp_text("{\"tokens_used\":3}"), iicp_body(NULL), &err));
    FAILS(iicp_task_chunk(id, NOTHING, iicp_body("1"), &err), IICP_STALE_ID);
    iicp_event *end = take(mesh.asking, IICP_EVENT_DONE);
    CHECK(!iicp_event_error(end), "%s", iicp_error_message(iicp_event_error(end)).ptr);
    says(end, "\"tokens_used\":3");
    says(end, "\"attempts\":1");
    iicp_event_free(end);
    iicp_event_free(task);
    OK(iicp_runtime_free(mesh.runtime));
}

static void a_part_that_is_no_json_fails_the_task(void) {
    struct mesh mesh = new_mesh("");
    stream(&mesh);
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
    OK(iicp_task_chunk(iicp_event_id(task), NOTHING, iicp_body("1"), &err));
    iicp_event_free(take(mesh.asking, IICP_EVENT_CHUNK));
    FAILS(iicp_task_chunk(iicp_event_id(task), NOTHING, iicp_body("no JSON"), &err), IICP_HANDLER);
    CODE(done(mesh.asking, NULL), IICP_BACKEND);
    iicp_event_free(task);
    OK(iicp_runtime_free(mesh.runtime));
}

static void who_leaves_stops_the_handler(void) {
    struct mesh mesh = new_mesh("");
    uint64_t op = stream(&mesh);
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
    uint64_t id = iicp_event_id(task);
    OK(iicp_task_chunk(id, NOTHING, iicp_body("1"), &err));
    iicp_event_free(take(mesh.asking, IICP_EVENT_CHUNK));
    OK(iicp_op_cancel(op, &err));
    CODE(done(mesh.asking, NULL), IICP_CANCELLED);
    iicp_event *cancel = take(mesh.serving, IICP_EVENT_TASK_CANCEL);
    CHECK(iicp_event_id(cancel) == id);
    FAILS(iicp_task_chunk(id, NOTHING, iicp_body("2"), &err), IICP_STALE_ID);
    iicp_event_free(cancel);
    iicp_event_free(task);
    OK(iicp_runtime_free(mesh.runtime));
}

/* Whoever breaks a connection off that the library writes to costs the task: the library asks the system for no SIGPIPE. */
static void a_peer_that_breaks_off_does_not_end_the_program(void) {
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    struct mesh mesh = new_mesh("");
    static char part[64 << 10];
    memset(part, 'x', sizeof part - 1);
    part[0] = part[sizeof part - 2] = '"';
    for (int round = 0; round < 100; round++) {
        uint64_t op = stream(&mesh);
        iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
        for (int i = 0; i < 8; i++) OK(iicp_task_chunk(iicp_event_id(task), NOTHING, iicp_body(part), NULL));
        iicp_event_free(take(mesh.asking, IICP_EVENT_CHUNK));
        OK(iicp_op_cancel(op, NULL));
        for (int i = 0; i < 8 && iicp_task_chunk(iicp_event_id(task), NOTHING, iicp_body(part), NULL) == IICP_OK; i++) {}
        iicp_event *event = NULL;
        do {
            iicp_event_free(event);
            OK(iicp_queue_next(mesh.asking, LONG, &event, NULL));
        } while (iicp_event_kind_of(event) != IICP_EVENT_DONE);
        iicp_event_free(event);
        iicp_event_free(take(mesh.serving, IICP_EVENT_TASK_CANCEL));
        iicp_event_free(task);
    }
    OK(iicp_runtime_free(mesh.runtime));
}

/* Parts that are held fill every buffer up to the handler, which is told to wait, and then that it may go on. */
static void a_handler_waits_for_who_holds_its_parts(void) {
    struct mesh mesh = new_mesh("");
    stream(&mesh);
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK), *event, *held[64];
    uint64_t id = iicp_event_id(task);
    static char part[40 << 10];
    memset(part, 'x', sizeof part - 1);
    part[0] = part[sizeof part - 2] = '"';
    int given = 0, count = 0, taken = 0, quiet = 0;
    while (!quiet) {
        iicp_code code = iicp_task_chunk(id, NOTHING, iicp_body(part), NULL);
        if (code == IICP_OK) given++;
        else {
            CODE(code, IICP_QUEUE_FULL);
            while (iicp_queue_next(mesh.asking, 200, &event, NULL) == IICP_OK) held[count++] = event;
            quiet = iicp_queue_next(mesh.serving, 200, &event, NULL) == IICP_TIMEOUT;
            if (!quiet) iicp_event_free(event);
        }
    }
    CHECK(count < 20 && given > count, "%d parts held, %d given", count, given);
    for (taken = count; count; ) iicp_event_free(held[--count]);
    for (; taken < given; taken++) iicp_event_free(take(mesh.asking, IICP_EVENT_CHUNK));
    event = take(mesh.serving, IICP_EVENT_TASK_ROOM);
    CHECK(iicp_event_id(event) == id);
    iicp_event_free(event);
    OK(iicp_task_finish(id, NOTHING, iicp_body(NULL), &err));
    CODE(done(mesh.asking, NULL), IICP_OK);
    iicp_event_free(task);
    OK(iicp_runtime_free(mesh.runtime));
}

int main(int argc, char **argv) {
    RUN(parts_come_in_order_and_the_end_tells_the_rest);
    RUN(a_part_that_is_no_json_fails_the_task);
    RUN(who_leaves_stops_the_handler);
    RUN(a_peer_that_breaks_off_does_not_end_the_program);
    RUN(a_handler_waits_for_who_holds_its_parts);
    return 0;
}
