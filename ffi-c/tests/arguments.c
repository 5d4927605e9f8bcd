/* Every function, given what C lets through: NULL, lengths that cannot be, text that is no UTF-8, ids that are none. */
#include "check.h"

static iicp_runtime runtime;
static iicp_queue queue;
static iicp_client client;
static iicp_error *err;

/* Bad views, and the code that each must give. */
static const struct { iicp_str view; iicp_code code; } BAD[] = {
    {{NULL, 1}, IICP_NULL_ARG},
    {{NULL, SIZE_MAX}, IICP_NULL_ARG},
    {{"x", SIZE_MAX}, IICP_INVALID_ARG},
    {{"x", SIZE_MAX / 2}, IICP_INVALID_ARG},
    {{"x", ((size_t)1 << 30) + 1}, IICP_INVALID_ARG},
    {{"\xff\xfe", 2}, IICP_INVALID_ARG},
    {{"{\"intent\":\"\xc3\"}", 13}, IICP_INVALID_ARG},
    {{"{", 1}, IICP_CONFIG_INVALID},
    {{"[]", 2}, IICP_CONFIG_INVALID},
    {{"{\"nonsense\":1}", 14}, IICP_CONFIG_INVALID},
    {{"{\"\0\":1}", 8}, IICP_CONFIG_INVALID},
};
#define EACH_BAD(i) for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)

/* A place of no variable: not aligned. */
#define CROOKED(type) ((type *)((char *)&place + 1))
static uint64_t place[2];

/* Ids of nothing. */
static uint64_t wrong[] = {0, 1, UINT64_MAX, 1ULL << 60, 0x1000000000000000ULL};
#define EACH_WRONG(i) for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)

static void texts_that_are_none_are_a_code(void) {
    iicp_runtime no_runtime = {0};
    iicp_queue no_queue = {0};
    iicp_client no_client = {0};
    iicp_event *event = NULL;
    uint64_t op = 0;
    EACH_BAD(i) {
        iicp_str bad = BAD[i].view;
        FAILS(iicp_runtime_new(IICP_ABI_VERSION, bad, &no_runtime, &err), BAD[i].code);
        FAILS(iicp_queue_new(runtime, bad, &no_queue, &err), BAD[i].code);
        FAILS(iicp_client_new(runtime, bad, &no_client, &err), BAD[i].code);
        FAILS(iicp_client_discover(client, queue, bad, 0, &op, &err), BAD[i].code);
        FAILS(iicp_client_submit(client, queue, bad, iicp_body("{}"), 0, &op, &err), BAD[i].code);
        FAILS(iicp_client_chat(client, queue, bad, 0, &op, &err), BAD[i].code);
        for (iicp_inference kind = 1; kind <= 5; kind++) {
            FAILS(iicp_client_infer(client, queue, kind, bad, iicp_body(NULL), 0, &op, &err), BAD[i].code);
            FAILS(iicp_client_infer_wait(client, kind, bad, iicp_body(NULL), &event, &err), BAD[i].code);
        }
        FAILS(iicp_client_discover_wait(client, bad, &event, &err), BAD[i].code);
        FAILS(iicp_client_submit_wait(client, bad, iicp_body("{}"), &event, &err), BAD[i].code);
        FAILS(iicp_client_chat_wait(client, bad, &event, &err), BAD[i].code);
        FAILS(iicp_node_serve(queue, bad, 0, &op, &err), BAD[i].code);
        FAILS(iicp_directory_bind(queue, bad, 0, &op, &err), BAD[i].code);
        /* Without a place for the error the code is the same. */
        CODE(iicp_client_chat(client, queue, bad, 0, &op, NULL), BAD[i].code);
    }
    CHECK(no_runtime.id == 0 && no_queue.id == 0 && no_client.id == 0 && op == 0 && !event, "written in spite of failure");
}

static void a_model_task_that_is_none_is_a_code(void) {
    const iicp_inference none[] = {0, -1, 6, INT32_MAX, INT32_MIN};
    iicp_event *event = NULL;
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        FAILS(iicp_client_infer(client, queue, none[i], iicp_text("{}"), iicp_body(NULL), 0, NULL, &err), IICP_INVALID_ARG);
        FAILS(iicp_client_infer_wait(client, none[i], iicp_text("{}"), iicp_body(NULL), &event, &err), IICP_INVALID_ARG);
    }
}

static void bodies_that_are_none_are_a_code(void) {
    iicp_str task = iicp_text("{\"intent\":\"" IICP_CHAT "\"}");
    iicp_event *event = NULL;
    uint64_t op = 0;
    const struct { iicp_bytes view; iicp_code code; } bodies[] = {
        {{NULL, 1}, IICP_NULL_ARG},
        {{(const uint8_t *)"x", SIZE_MAX}, IICP_INVALID_ARG},
        {{(const uint8_t *)"x", ((size_t)1 << 30) + 1}, IICP_INVALID_ARG},
        {{NULL, 0}, IICP_PAYLOAD_INVALID},
        {{(const uint8_t *)"\xff", 1}, IICP_PAYLOAD_INVALID},
        {{(const uint8_t *)"{]", 2}, IICP_PAYLOAD_INVALID},
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        FAILS(iicp_client_submit(client, queue, task, bodies[i].view, 0, &op, &err), bodies[i].code);
        FAILS(iicp_client_submit_wait(client, task, bodies[i].view, &event, &err), bodies[i].code);
    }
    for (size_t i = 0; i < 3; i++) {
        iicp_inference kind = IICP_INFERENCE_TRANSCRIPTION;
        FAILS(iicp_client_infer(client, queue, kind, iicp_text("{}"), bodies[i].view, 0, &op, &err), bodies[i].code);
        FAILS(iicp_client_infer_wait(client, kind, iicp_text("{}"), bodies[i].view, &event, &err), bodies[i].code);
    }
    /* No sound at all. */
    CODE(iicp_client_infer(client, queue, IICP_INFERENCE_TRANSCRIPTION, NOTHING, iicp_body(NULL), 0, &op, NULL), IICP_CONFIG_INVALID);
    CHECK(op == 0 && !event);
}

static void places_that_are_none_are_a_code(void) {
    iicp_str query = iicp_text("{\"intent\":\"" IICP_CHAT "\"}");
    iicp_event *event = NULL;
    size_t count = 0;
    FAILS(iicp_runtime_new(IICP_ABI_VERSION, NOTHING, NULL, &err), IICP_NULL_ARG);
    FAILS(iicp_runtime_new(IICP_ABI_VERSION, NOTHING, CROOKED(iicp_runtime), &err), IICP_INVALID_ARG);
    FAILS(iicp_queue_new(runtime, NOTHING, NULL, &err), IICP_NULL_ARG);
    FAILS(iicp_queue_new(runtime, NOTHING, CROOKED(iicp_queue), &err), IICP_INVALID_ARG);
    FAILS(iicp_queue_next(queue, 0, NULL, &err), IICP_NULL_ARG);
    FAILS(iicp_queue_next(queue, 0, CROOKED(iicp_event *), &err), IICP_INVALID_ARG);
    FAILS(iicp_queue_drain(queue, NULL, 1, &count, &err), IICP_NULL_ARG);
    FAILS(iicp_queue_drain(queue, CROOKED(iicp_event *), 1, &count, &err), IICP_INVALID_ARG);
    FAILS(iicp_queue_drain(queue, &event, 1, NULL, &err), IICP_NULL_ARG);
    OK(iicp_queue_drain(queue, NULL, 0, &count, &err));
    FAILS(iicp_queue_fd(queue, NULL, &err), IICP_NULL_ARG);
    FAILS(iicp_queue_fd(queue, CROOKED(int32_t), &err), IICP_INVALID_ARG);
    FAILS(iicp_client_new(runtime, NOTHING, NULL, &err), IICP_NULL_ARG);
    FAILS(iicp_client_discover_wait(client, query, NULL, &err), IICP_NULL_ARG);
    FAILS(iicp_client_submit_wait(client, query, iicp_body("{}"), NULL, &err), IICP_NULL_ARG);
    FAILS(iicp_client_chat_wait(client, query, NULL, &err), IICP_NULL_ARG);
    FAILS(iicp_client_infer_wait(client, 1, query, iicp_body(NULL), NULL, &err), IICP_NULL_ARG);
    FAILS(iicp_client_infer(client, queue, 1, query, iicp_body(NULL), 0, CROOKED(uint64_t), &err), IICP_INVALID_ARG);
    FAILS(iicp_client_discover(client, queue, query, 0, CROOKED(uint64_t), &err), IICP_INVALID_ARG);
    FAILS(iicp_node_status((iicp_node){0}, NULL, &err), IICP_NULL_ARG);
    /* An error that cannot be written is not; the code still comes. */
    CODE(iicp_queue_new(runtime, NOTHING, NULL, CROOKED(iicp_error *)), IICP_NULL_ARG);
    CHECK(place[0] == 0 && place[1] == 0);
}

static void ids_of_nothing_are_stale(void) {
    iicp_str query = iicp_text("{\"intent\":\"" IICP_CHAT "\"}");
    iicp_event *event = NULL;
    size_t count = 0;
    int32_t fd = 0;
    uint64_t op = 0;
    EACH_WRONG(i) {
        uint64_t id = wrong[i];
        FAILS(iicp_runtime_shutdown((iicp_runtime){id}, 0, &err), IICP_STALE_ID);
        FAILS(iicp_queue_new((iicp_runtime){id}, NOTHING, &queue, &err), IICP_STALE_ID);
        FAILS(iicp_queue_next((iicp_queue){id}, 0, &event, &err), IICP_STALE_ID);
        FAILS(iicp_queue_drain((iicp_queue){id}, &event, 1, &count, &err), IICP_STALE_ID);
        FAILS(iicp_queue_fd((iicp_queue){id}, &fd, &err), IICP_STALE_ID);
        FAILS(iicp_queue_on_wake((iicp_queue){id}, NULL, NULL, NULL, &err), IICP_STALE_ID);
        FAILS(iicp_queue_close((iicp_queue){id}, &err), IICP_STALE_ID);
        FAILS(iicp_client_new((iicp_runtime){id}, NOTHING, &client, &err), IICP_STALE_ID);
        FAILS(iicp_client_discover((iicp_client){id}, queue, query, 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_client_discover(client, (iicp_queue){id}, query, 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_client_submit((iicp_client){id}, queue, query, iicp_body("{}"), 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_client_submit(client, (iicp_queue){id}, query, iicp_body("{}"), 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_client_chat((iicp_client){id}, queue, NOTHING, 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_client_infer((iicp_client){id}, queue, 1, query, iicp_body("{}"), 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_client_infer_wait((iicp_client){id}, 1, query, iicp_body("{}"), &event, &err), IICP_STALE_ID);
        FAILS(iicp_rank_finish(id, NOTHING, &err), IICP_STALE_ID);
        FAILS(iicp_client_discover_wait((iicp_client){id}, query, &event, &err), IICP_STALE_ID);
        FAILS(iicp_client_submit_wait((iicp_client){id}, query, iicp_body("{}"), &event, &err), IICP_STALE_ID);
        FAILS(iicp_client_chat_wait((iicp_client){id}, query, &event, &err), IICP_STALE_ID);
        FAILS(iicp_node_serve((iicp_queue){id}, query, 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_node_status((iicp_node){id}, &event, &err), IICP_STALE_ID);
        FAILS(iicp_node_nat_report((iicp_node){id}, &event, &err), IICP_STALE_ID);
        FAILS(iicp_node_close((iicp_node){id}, queue, 0, 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_directory_bind((iicp_queue){id}, NOTHING, 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_directory_close((iicp_directory){id}, queue, 0, 0, &op, &err), IICP_STALE_ID);
        FAILS(iicp_task_finish(id, NOTHING, iicp_body("{}"), &err), IICP_STALE_ID);
        FAILS(iicp_task_fail(id, IICP_BACKEND, NOTHING, &err), IICP_STALE_ID);
        FAILS(iicp_op_cancel(id, &err), IICP_STALE_ID);
        iicp_code gone = id == 0 ? IICP_OK : IICP_STALE_ID;
        CODE(iicp_runtime_free((iicp_runtime){id}), gone);
        CODE(iicp_queue_free((iicp_queue){id}), gone);
        CODE(iicp_client_close((iicp_client){id}), gone);
    }
    /* The right number for something else, too. */
    FAILS(iicp_queue_next((iicp_queue){client.id}, 0, &event, &err), IICP_STALE_ID);
    FAILS(iicp_client_chat((iicp_client){queue.id}, queue, NOTHING, 0, &op, &err), IICP_STALE_ID);
    FAILS(iicp_queue_next((iicp_queue){runtime.id}, 0, &event, &err), IICP_STALE_ID);
    CHECK(op == 0 && !event);
}

static void nothing_can_be_read_and_freed(void) {
    CHECK(iicp_error_code(NULL) == IICP_OK && iicp_error_retryable(NULL) == 0 && iicp_error_http_status(NULL) == 0);
    CHECK(iicp_error_retry_after_ms(NULL) == -1);
    CHECK(iicp_error_name(NULL).len == 0 && iicp_error_message(NULL).len == 0 && iicp_error_message_in(NULL, IICP_SPELLING_CAMEL).len == 0 && iicp_error_wire_code(NULL).len == 0);
    CHECK(iicp_error_json(NULL).len == 0 && *iicp_error_json(NULL).ptr == 0);
    CHECK(iicp_event_kind_of(NULL) == 0 && iicp_event_id(NULL) == 0 && iicp_event_tag(NULL) == 0);
    CHECK(iicp_event_handle(NULL) == 0 && iicp_event_json(NULL).len == 0 && iicp_event_body(NULL).len == 0);
    CHECK(iicp_event_error(NULL) == NULL);
    CHECK(iicp_code_name(12345).len == 0 && strcmp(iicp_code_name(IICP_NO_NODES).ptr, "NO_NODES") == 0);
    CHECK(iicp_code_name(IICP_CONFIDENTIALITY_REQUIRED).len == strlen("CONFIDENTIALITY_REQUIRED"));
    iicp_error_free(NULL);
    iicp_event_free(NULL);
    CHECK(iicp_version().len == strlen(iicp_version().ptr) && iicp_version().len > 4);
}

static void a_program_for_another_interface_is_told(void) {
    iicp_runtime other = {0};
    FAILS(iicp_runtime_new(IICP_ABI_VERSION + 1, NOTHING, &other, &err), IICP_ABI_MISMATCH);
    FAILS(iicp_runtime_new(0, NOTHING, &other, &err), IICP_ABI_MISMATCH);
    CHECK(other.id == 0);
}

static void an_error_calls_options_as_a_layer_does(void) {
    iicp_client none;
    CODE(iicp_client_new(runtime, iicp_text("{\"route_ttl_ms\":3600001}"), &none, &err), IICP_CONFIG_INVALID);
    const struct { iicp_spelling spelling; const char *begins; } said[] = {
        {IICP_SPELLING_SNAKE, "option route_ttl_ms of a client is 3600001 ms;"},
        {IICP_SPELLING_SECONDS, "option route_ttl of a client is 3600.001 s;"},
        {IICP_SPELLING_CAMEL, "option routeTtlMs of a client is 3600001 ms;"},
        {IICP_SPELLING_PASCAL, "option RouteTTLMs of a client is 3600001 ms;"},
    };
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        iicp_str message = iicp_error_message_in(err, said[i].spelling);
        CHECK(strncmp(message.ptr, said[i].begins, strlen(said[i].begins)) == 0, "%s", message.ptr);
        CHECK(message.len == strlen(message.ptr) && iicp_error_message_in(err, said[i].spelling).ptr == message.ptr);
    }
    CHECK(iicp_error_message_in(err, 0).len == 0 && iicp_error_message_in(err, 99).len == 0);
    iicp_error_free(err);
    err = NULL;
}

static void an_error_shows_what_it_knows(void) {
    iicp_event *event = NULL;
    CODE(iicp_client_chat_wait(client, iicp_text("{}"), &event, &err), IICP_CONFIG_INVALID);
    CHECK(strcmp(iicp_error_name(err).ptr, "CONFIG_INVALID") == 0);
    CHECK(strstr(iicp_error_message(err).ptr, "messages"), "%s", iicp_error_message(err).ptr);
    CHECK(strstr(iicp_error_json(err).ptr, "\"code\":2001"), "%s", iicp_error_json(err).ptr);
    CHECK(iicp_error_json(err).ptr == iicp_error_json(err).ptr, "read twice, made once");
    CHECK(!iicp_error_retryable(err) && iicp_error_retry_after_ms(err) == -1 && iicp_error_wire_code(err).len == 0);
    iicp_error_free(err);
    err = NULL;
    /* A directory where nobody listens. */
    iicp_client lost = new_client(runtime, "http://127.0.0.1:1");
    iicp_str query = iicp_text("{\"intent\":\"" IICP_CHAT "\"}");
    CODE(iicp_client_discover_wait(lost, query, &event, &err), IICP_DIRECTORY_UNREACHABLE);
    CHECK(iicp_error_retryable(err) == 1 && !event);
    iicp_error_free(err);
    err = NULL;
    OK(iicp_client_discover(lost, queue, query, 77, NULL, &err));
    event = take(queue, IICP_EVENT_DONE);
    CHECK(iicp_event_tag(event) == 77 && iicp_event_id(event) != 0);
    CHECK(iicp_error_code(iicp_event_error(event)) == IICP_DIRECTORY_UNREACHABLE);
    iicp_event_free(event);
    OK(iicp_client_close(lost));
}

int main(int argc, char **argv) {
    runtime = new_runtime();
    queue = new_queue(runtime);
    client = new_client(runtime, "http://127.0.0.1:1");
    RUN(texts_that_are_none_are_a_code);
    RUN(a_model_task_that_is_none_is_a_code);
    RUN(bodies_that_are_none_are_a_code);
    RUN(places_that_are_none_are_a_code);
    RUN(ids_of_nothing_are_stale);
    RUN(nothing_can_be_read_and_freed);
    RUN(a_program_for_another_interface_is_told);
    RUN(an_error_calls_options_as_a_layer_does);
    RUN(an_error_shows_what_it_knows);
    CHECK(!err);
    OK(iicp_runtime_free(runtime));
    return 0;
}
