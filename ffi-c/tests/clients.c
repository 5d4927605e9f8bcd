/* What a client may ask beside tasks: the model tasks, who may be sent one, and which candidate goes first. */
#include "json.h"
#include "mesh.h"

#define EVERY_INTENT ",\"intents\":[\"" IICP_COMPLETION "\",\"" IICP_EMBEDDING "\",\"" IICP_TRANSCRIPTION "\",\"" IICP_SPEECH "\",\"" IICP_MODERATION "\"]"
#define CANARY "canary-1a2b3c"

static iicp_error *err;

/* Another node beside that of the mesh. */
static iicp_node serve(struct mesh *mesh, const char *intents) {
    char *options = print("{\"directory\":\"%s\"%s}", mesh->url, intents);
    iicp_node node = {0};
    OK(iicp_node_serve(mesh->serving, iicp_text(options), 0, NULL, NULL));
    OK(done(mesh->serving, &node.id));
    free(options);
    return node;
}

/* The mesh's client, made anew with more options. */
static void new_client_with(struct mesh *mesh, const char *more) {
    char *options = print("{\"directory\":\"%s\"%s}", mesh->url, more);
    OK(iicp_client_close(mesh->client));
    OK(iicp_client_new(mesh->runtime, iicp_text(options), &mesh->client, &err));
    free(options);
}

/* Asks a model, answers for it, and returns the reply's json and body. */
static iicp_event *ask(struct mesh *mesh, iicp_inference kind, const char *options, const char *body, const char *sees, const char *answer) {
    OK(iicp_client_infer(mesh->client, mesh->asking, kind, iicp_text(options), iicp_body(body), 1, NULL, &err));
    iicp_event *task = take(mesh->serving, IICP_EVENT_TASK);
    char *payload = print("%.*s", (int)iicp_event_body(task).len, (const char *)iicp_event_body(task).ptr);
    CHECK(strstr(payload, sees), "the handler got %s", payload);
    OK(iicp_task_finish(iicp_event_id(task), NOTHING, iicp_body(answer), &err));
    iicp_event_free(task);
    free(payload);
    iicp_event *reply = take(mesh->asking, IICP_EVENT_DONE);
    CHECK(!iicp_event_error(reply), "%s", iicp_error_message(iicp_event_error(reply)).ptr);
    CHECK(strstr(iicp_event_json(reply).ptr, "\"receipt_version\":\"iicp-routing-receipt-v1\""), "%s", iicp_event_json(reply).ptr);
    CHECK(strstr(iicp_event_json(reply).ptr, "\"sealed\":true"), "%s", iicp_event_json(reply).ptr);
    return reply;
}

/* That the json of a reply says this, and then no more of it. */
#define SAYS(reply, text)                                                                                              \
    do {                                                                                                               \
        iicp_event *reply_ = (reply);                                                                                  \
        CHECK(strstr(iicp_event_json(reply_).ptr, text), "%s", iicp_event_json(reply_).ptr);                           \
        iicp_event_free(reply_);                                                                                       \
    } while (0)

static void every_model_task_has_its_reply(void) {
    struct mesh mesh = new_mesh("");
    serve(&mesh, EVERY_INTENT);
    SAYS(ask(&mesh, IICP_INFERENCE_COMPLETION, "{\"prompt\":\"Hello,\"}", "", "Hello,", "{\"choices\":[{\"text\":\" mesh\",\"finish_reason\":\"stop\"}]}"),
         "\"text\":\" mesh\",\"finish_reason\":\"stop\"");
    SAYS(ask(&mesh, IICP_INFERENCE_EMBEDDING, "{\"input\":[\"a\"]}", "", "[\"a\"]", "{\"data\":[{\"embedding\":[1,0.5]}]}"), "\"vectors\":[[1.0,0.5]]");
    SAYS(ask(&mesh, IICP_INFERENCE_TRANSCRIPTION, "{\"language\":\"en\"}", "RIFF", "\"audio\":\"UklGRg==\"", "{\"text\":\"hi\",\"language\":\"en\"}"),
         "\"text\":\"hi\",\"language\":\"en\"");
    SAYS(ask(&mesh, IICP_INFERENCE_MODERATION, "{\"input\":\"a\"}", "", "[\"a\"]", "{\"results\":[{\"flagged\":true}]}"), "\"flagged\":true");
    iicp_event *speech = ask(&mesh, IICP_INFERENCE_SPEECH, "{\"input\":\"hi\"}", "", "hi", "{\"audio\":\"AAH/\",\"format\":\"wav\"}");
    CHECK(iicp_event_body(speech).len == 3 && memcmp(iicp_event_body(speech).ptr, "\0\1\xff", 3) == 0, "the sound is the body");
    SAYS(speech, "\"format\":\"wav\"");
    OK(iicp_runtime_free(mesh.runtime));
}

static void a_model_task_that_nobody_serves_is_told_to_who_waits(void) {
    struct mesh mesh = new_mesh("");
    iicp_event *event = NULL;
    FAILS(iicp_client_infer_wait(mesh.client, IICP_INFERENCE_SPEECH, iicp_text("{\"input\":\"x\"}"), iicp_body(NULL), &event, &err), IICP_NO_NODES);
    CHECK(!event);
    OK(iicp_runtime_free(mesh.runtime));
}

static void nested_options_arrive(void) {
    struct mesh mesh = new_mesh("");
    iicp_client other = {0};
    CODE(iicp_client_new(mesh.runtime, iicp_text("{\"routing_policy\":{\"profile\":\"lax\"}}"), &other, &err), IICP_CONFIG_INVALID);
    CHECK(strstr(iicp_error_message(err).ptr, "routing_policy") && strstr(iicp_error_message(err).ptr, "eu_restricted"), "%s", iicp_error_message(err).ptr);
    iicp_error_free(err);
    err = NULL;
    /* A policy of the call, and one of the client: the node is in no region that it names. */
    iicp_event *event = NULL;
    iicp_str chat = iicp_text("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"routing_policy\":{\"allowed_regions\":[\"moon\"]}}");
    FAILS(iicp_client_chat_wait(mesh.client, chat, &event, &err), IICP_POLICY_REFUSED);
    new_client_with(&mesh, ",\"routing_policy\":{\"allowed_regions\":[\"moon\"]}");
    FAILS(iicp_client_submit_wait(mesh.client, iicp_text(TASK), iicp_body("{}"), &event, &err), IICP_POLICY_REFUSED);
    CHECK(!event);
    OK(iicp_runtime_free(mesh.runtime));
}

static void parts_of_a_message_reach_the_handler(void) {
    struct mesh mesh = new_mesh("");
    iicp_str chat = iicp_text("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a cat?\"},"
                              "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,AA==\"}}]}]}");
    OK(iicp_client_chat(mesh.client, mesh.asking, chat, 0, NULL, &err));
    iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
    char *payload = print("%.*s", (int)iicp_event_body(task).len, (const char *)iicp_event_body(task).ptr);
    CHECK(strstr(payload, "\"url\":\"data:image/png;base64,AA==\"") && strstr(payload, "a cat?"), "%s", payload);
    const char *reply = "{\"choices\":[{\"message\":{\"tool_calls\":[{\"id\":\"c-1\"}]},\"finish_reason\":\"tool_calls\"}]}";
    OK(iicp_task_finish(iicp_event_id(task), NOTHING, iicp_body(reply), &err));
    SAYS(take(mesh.asking, IICP_EVENT_DONE), "\"text\":\"\",\"tool_calls\":[{\"id\":\"c-1\"}],\"finish_reason\":\"tool_calls\"");
    iicp_event_free(task);
    free(payload);
    OK(iicp_runtime_free(mesh.runtime));
}

/* Submits with a client that has a ranker; the event that asks for it. */
static iicp_event *submit_ranked(struct mesh *mesh, uint64_t tag) {
    uint64_t op = submit(mesh, "{}", tag);
    iicp_event *asked = take(mesh->asking, IICP_EVENT_RANK);
    CHECK(iicp_event_id(asked) == op && iicp_event_tag(asked) == tag && !iicp_event_error(asked));
    return asked;
}

/* That a task which was not refused runs, and who was chosen by whom. */
static void runs(struct mesh *mesh, const char *by) {
    iicp_event *task = take(mesh->serving, IICP_EVENT_TASK);
    OK(iicp_task_finish(iicp_event_id(task), NOTHING, iicp_body("{}"), &err));
    iicp_event_free(task);
    SAYS(take(mesh->asking, IICP_EVENT_DONE), by);
}

static void a_ranker_chooses_declines_or_refuses(void) {
    struct mesh mesh = new_mesh("");
    serve(&mesh, ",\"intents\":[\"" IICP_CHAT "\"]");
    new_client_with(&mesh, ",\"external_ranker\":true,\"routing_strategy\":\"deterministic\",\"route_discovery\":\"legacy\"");
    /* It chooses. */
    iicp_event *asked = submit_ranked(&mesh, 5);
    struct json *question = json_parse(iicp_event_json(asked).ptr), *candidates = json_get(question, "candidates");
    CHECK(candidates && candidates->child && candidates->child->next && !candidates->child->next->next, "two candidates");
    CHECK(strcmp(json_string(question, "intent"), IICP_CHAT) == 0 && *json_string(question, "request_ref"));
    const char *last = json_string(candidates->child->next, "candidate_ref");
    char *choice = print("{\"candidate_ref\":\"%s\",\"policy_id\":\"mine\",\"mode\":\"exploration\"}", last);
    OK(iicp_rank_finish(iicp_event_id(asked), iicp_text(choice), &err));
    FAILS(iicp_rank_finish(iicp_event_id(asked), iicp_text(choice), &err), IICP_STALE_ID);
    runs(&mesh, "\"selection_profile\":\"external_ranker/mine/exploration\"");
    free(choice);
    json_free(question);
    iicp_event_free(asked);
    /* It declines, in each way that it may. */
    const char *const none[] = {"", "null"};
    for (size_t i = 0; i < 2; i++) {
        asked = submit_ranked(&mesh, 6);
        OK(iicp_rank_finish(iicp_event_id(asked), iicp_text(none[i]), &err));
        runs(&mesh, "\"selection_profile\":\"deterministic\"");
        iicp_event_free(asked);
    }
    /* It refuses, chooses what is no candidate, or talks nonsense. */
    const struct { const char *answer; iicp_code code; } bad[] = {
        {"{\"error\":\"my evaluator is away\"}", IICP_OK},
        {"{\"candidate_ref\":\"nobody\",\"policy_id\":\"mine\",\"mode\":\"normal\"}", IICP_OK},
        {"{\"candidate_ref\":\"nobody\"}", IICP_INVALID_ARG},
        {"[]", IICP_INVALID_ARG},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        asked = submit_ranked(&mesh, 7);
        CODE(iicp_rank_finish(iicp_event_id(asked), iicp_text(bad[i].answer), NULL), bad[i].code);
        iicp_event *refused = take(mesh.asking, IICP_EVENT_DONE);
        CODE(iicp_error_code(iicp_event_error(refused)), IICP_RANKER_REFUSED);
        CHECK(i > 0 || strstr(iicp_error_message(iicp_event_error(refused)).ptr, "my evaluator is away"));
        iicp_event_free(refused);
        iicp_event_free(asked);
    }
    OK(iicp_runtime_free(mesh.runtime));
}

static void a_ranker_that_says_nothing_costs_its_task_only(void) {
    struct mesh mesh = new_mesh("");
    new_client_with(&mesh, ",\"external_ranker\":true");
    uint64_t before = alive(mesh.runtime);
    /* Its operation is cancelled. */
    iicp_event *asked = submit_ranked(&mesh, 1);
    OK(iicp_op_cancel(iicp_event_id(asked), &err));
    CODE(done(mesh.asking, NULL), IICP_CANCELLED);
    FAILS(iicp_rank_finish(iicp_event_id(asked), NOTHING, &err), IICP_STALE_ID);
    iicp_event_free(asked);
    /* Its time is over. */
    iicp_str task = iicp_text("{\"intent\":\"" IICP_CHAT "\",\"timeout_ms\":300}");
    OK(iicp_client_submit(mesh.client, mesh.asking, task, iicp_body("{}"), 2, NULL, &err));
    asked = take(mesh.asking, IICP_EVENT_RANK);
    CODE(done(mesh.asking, NULL), IICP_TIMEOUT);
    FAILS(iicp_rank_finish(iicp_event_id(asked), NOTHING, &err), IICP_STALE_ID);
    iicp_event_free(asked);
    /* Its client is closed. */
    asked = submit_ranked(&mesh, 3);
    OK(iicp_client_close(mesh.client));
    CODE(done(mesh.asking, NULL), IICP_CLOSED);
    iicp_event_free(asked);
    mesh.client = new_client(mesh.runtime, mesh.url);
    CHECK(alive(mesh.runtime) == before, "%llu", (unsigned long long)alive(mesh.runtime));
    OK(iicp_runtime_free(mesh.runtime));
}

static void who_waits_cannot_be_asked_to_rank(void) {
    struct mesh mesh = new_mesh("");
    new_client_with(&mesh, ",\"external_ranker\":true");
    iicp_event *event = NULL;
    CODE(iicp_client_submit_wait(mesh.client, iicp_text(TASK), iicp_body("{}"), &event, &err), IICP_RANKER_REFUSED);
    CHECK(strstr(iicp_error_message(err).ptr, "with a queue"), "%s", iicp_error_message(err).ptr);
    iicp_error_free(err);
    err = NULL;
    CHECK(!event);
    OK(iicp_runtime_free(mesh.runtime));
}

static void no_error_shows_the_token(void) {
    struct mesh mesh = new_mesh("");
    static const char *const wrong[] = {
        ",\"node_token\":\"" CANARY "\",\"max_attempts\":99", ",\"node_token\":\"" CANARY "\\n\"",
        ",\"node_token\":[\"" CANARY "\"]",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *options = print("{\"directory\":\"%s\"%s}", mesh.url, wrong[i]);
        iicp_client other = {0};
        CODE(iicp_client_new(mesh.runtime, iicp_text(options), &other, &err), IICP_CONFIG_INVALID);
        CHECK(!strstr(iicp_error_json(err).ptr, CANARY), "%s", iicp_error_json(err).ptr);
        iicp_error_free(err);
        err = NULL;
        free(options);
    }
    new_client_with(&mesh, ",\"node_token\":\"" CANARY "\",\"node_id\":\"n-1\",\"consumer_auth\":\"required\"");
    submit(&mesh, "{}", 0);
    iicp_event *event = NULL;
    OK(iicp_queue_next(mesh.asking, LONG, &event, NULL));
    CHECK(!strstr(iicp_event_json(event).ptr, CANARY) && !strstr(iicp_error_json(iicp_event_error(event)).ptr, CANARY));
    iicp_event_free(event);
    OK(iicp_runtime_free(mesh.runtime));
}

int main(int argc, char **argv) {
    RUN(every_model_task_has_its_reply);
    RUN(a_model_task_that_nobody_serves_is_told_to_who_waits);
    RUN(nested_options_arrive);
    RUN(parts_of_a_message_reach_the_handler);
    RUN(a_ranker_chooses_declines_or_refuses);
    RUN(a_ranker_that_says_nothing_costs_its_task_only);
    RUN(who_waits_cannot_be_asked_to_rank);
    RUN(no_error_shows_the_token);
    return 0;
}
