/* Runs the case table: cases STAGE FILE... [-- PART-OF-A-NAME] ; tests/cases/README.md says what a case is. */
#include "json.h"
#include <time.h>
#include <unistd.h>

#define CALLS 4096 /* at the same time, at most */

static FILE *to_stage, *from_stage;
static iicp_runtime runtime;
static iicp_queue queue;
static iicp_client client;
static iicp_error *no_client; /* why there is none */
static struct json *scene;    /* what the stage set up */
static char *scene_text;

static int ranked;            /* whether a step of the case says what a ranker answers */

/* One call: tag is its place. */
static struct call { char name[64]; uint64_t op; const struct json *rank; int speech, stream, take, taken; char *texts, *outcome; } calls[CALLS];
static size_t call_count;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

/* Sends a line to the stage; its answer, or nothing if it is an error, which is printed. */
static char *stage(const char *format, const char *raw, int len) {
    char *command = print(format, len, raw);
    for (char *at = command; *at; at++) fputc(*at == '\n' ? ' ' : *at, to_stage); /* the table has several, the stage one */
    fputc('\n', to_stage);
    fflush(to_stage);
    free(command);
    char *line = NULL;
    size_t room = 0;
    CHECK(getline(&line, &room, from_stage) > 0, "the stage has ended");
    if (strncmp(line, "{\"ok\":", 6) == 0) return line;
    printf("    the stage: %s", line);
    free(line);
    return NULL;
}

static void set_scene(char *line) {
    json_free(scene);
    free(scene_text);
    scene_text = line;
    scene = json_parse(line + strlen("{\"ok\":"));
}

/* Place of a node in the scene, as JSON; null if it has none. */
static const char *node_place(const char *id) {
    static char text[16];
    int place = 0;
    for (struct json *node = json_get(scene, "nodes")->child; node; node = node->next, place++) {
        snprintf(text, sizeof text, "%d", place);
        if (strcmp(json_string(node, "node_id"), id) == 0) return text;
    }
    return "null";
}

static char *failure(const iicp_error *error, const struct call *call) {
    char *texts = call && call->stream ? print("\"texts\":[%s],", call->texts) : print("%s", "");
    char *text = print("{%s\"code\":\"%s\",%s", texts, iicp_error_name(error).ptr, strchr(iicp_error_json(error).ptr, ',') + 1);
    free(texts);
    return text;
}

/* Notes what a part says. Who has enough of them leaves. */
static void add_part(const iicp_event *event) {
    struct call *call = &calls[iicp_event_tag(event)];
    if (call->take && call->taken == call->take) return;
    struct json *about = json_parse(iicp_event_json(event).ptr), *said = json_get(about, "text");
    char *longer = print("%s%s%.*s", call->texts, call->taken++ ? "," : "", (int)said->len, said->raw);
    free(call->texts);
    call->texts = longer;
    if (call->take && call->taken == call->take) iicp_op_cancel(call->op, NULL);
    json_free(about);
}

static void new_client_as(const struct json *options) {
    iicp_client_close(client);
    iicp_error_free(no_client);
    client.id = 0;
    no_client = NULL;
    const struct json *given = json_get(options, "directory");
    const char *url = json_string(scene, "directory");
    char *text;
    if (!options || !options->child) {
        text = print("{\"directory\":\"%s\"}", url);
    } else if (!given) {
        text = print("{\"directory\":\"%s\",%.*s", url, (int)options->len - 1, options->raw + 1);
    } else {
        char *mark = memmem(options->raw, options->len, "$directory", 10);
        int before = mark ? (int)(mark - options->raw) : (int)options->len;
        const char *after = mark ? mark + 10 : options->raw + options->len;
        text = print("%.*s%s%.*s", before, options->raw, mark ? url : "", (int)(options->raw + options->len - after), after);
    }
    if (ranked) {
        char *more = print("{\"external_ranker\":true,%s", text + 1);
        free(text);
        text = more;
    }
    iicp_client_new(runtime, iicp_text(text), &client, &no_client);
    free(text);
}

/* An object as it was read, but for the fields that are named in `but`. */
static char *without(const struct json *object, const char *but) {
    char *text = print("{");
    for (struct json *field = object->child; field; field = field->next) {
        if (strstr(but, field->key)) continue;
        char *longer = print("%s%s\"%s\":%.*s", text, text[1] ? "," : "", field->key, (int)field->len, field->raw);
        free(text);
        text = longer;
    }
    char *closed = print("%s}", text);
    free(text);
    return closed;
}

static iicp_inference inference(const char *kind) {
    static const char *const kinds[] = {"completion", "embedding", "transcription", "speech", "moderation"};
    for (iicp_inference i = 0; i < 5; i++)
        if (strcmp(kinds[i], kind) == 0) return i + IICP_INFERENCE_COMPLETION;
    return 0;
}

/* Answers for the ranker as the step of the call says. */
static void rank(const iicp_event *event) {
    const struct json *told = calls[iicp_event_tag(event)].rank;
    const char *answer = told && told->type == JSON_STRING ? told->text : "none", *last = "nobody";
    struct json *json = json_parse(iicp_event_json(event).ptr), *candidate = json_get(json, "candidates")->child;
    for (; strcmp(answer, "last") == 0 && candidate; candidate = candidate->next) last = json_string(candidate, "candidate_ref");
    char *choice = told && told->type == JSON_OBJECT ? print("%.*s", (int)told->len, told->raw)
                   : strcmp(answer, "none") == 0     ? print("null")
                   : print("{\"candidate_ref\":\"%s\",\"policy_id\":\"case-policy\",\"mode\":\"normal\"}", last);
    iicp_rank_finish(iicp_event_id(event), iicp_text(choice), NULL);
    json_free(json);
    free(choice);
}

/* Starts a verb; what is wrong with its arguments is an outcome already. */
static void start(const struct json *step, const char *name) {
    const struct json *submit = json_get(step, "submit"), *chat = json_get(step, "chat"), *infer = json_get(step, "infer");
    const struct json *stream = json_get(step, "stream"), *take = json_get(step, "take");
    const struct json *verb = submit ? submit : chat ? chat : infer ? infer : stream;
    if (!verb) verb = json_get(step, "discover");
    const struct json *payload = json_get(step, "payload"), *size = json_get(step, "payload_bytes");
    iicp_str options = {verb->raw, verb->len};
    uint64_t tag = call_count;
    struct call *call = &calls[call_count++];
    CHECK(call_count < CALLS);
    *call = (struct call){.rank = json_get(step, "rank")};
    snprintf(call->name, sizeof call->name, "%s", name);
    iicp_error *error = NULL;
    if (submit) {
        char *body = payload ? print("%.*s", (int)payload->len, payload->raw) : print("{\"text\":\"canary\"}");
        if (size) {
            free(body);
            body = print("{\"pad\":\"%0*d\"}", (int)size->number - 10, 0);
        }
        iicp_client_submit(client, queue, options, iicp_body(body), tag, &call->op, &error);
        free(body);
    } else if (chat) {
        iicp_client_chat(client, queue, options, tag, &call->op, &error);
    } else if (stream) {
        char *body = payload ? print("%.*s", (int)payload->len, payload->raw) : NULL;
        call->stream = 1;
        call->take = take ? (int)take->number : 0;
        call->texts = print("%s", "");
        iicp_client_stream(client, queue, options, iicp_body(body), tag, &call->op, &error);
        free(body);
    } else if (infer) {
        iicp_inference kind = inference(json_string(infer, "kind"));
        char *ask = without(infer, "kind audio_text");
        call->speech = kind == IICP_INFERENCE_SPEECH;
        iicp_client_infer(client, queue, kind, iicp_text(ask), iicp_body(json_string(infer, "audio_text")), tag, &call->op, &error);
        free(ask);
    } else {
        iicp_client_discover(client, queue, options, tag, &call->op, &error);
    }
    if (error) call->outcome = failure(error, call);
    iicp_error_free(error);
}

/* What a DONE says, in the words of the table. */
static char *outcome(const iicp_event *event) {
    const struct call *call = &calls[iicp_event_tag(event)];
    if (call->take && call->taken == call->take) return print("{\"texts\":[%s]}", call->texts);
    if (iicp_event_error(event)) return failure(iicp_event_error(event), call);
    struct json *json = json_parse(iicp_event_json(event).ptr);
    char *text;
    if (json->type == JSON_LIST) {
        text = print("{\"nodes\":[");
        for (struct json *node = json->child; node; node = node->next) {
            char *longer = print("%s%s%s", text, node_place(json_string(node, "node_id")), node->next ? "," : "");
            free(text);
            text = longer;
        }
        char *closed = print("%s]}", text);
        free(text);
        text = closed;
    } else if (call->stream) {
        text = print("{\"node\":%s,\"texts\":[%s],%s", node_place(json_string(json, "node_id")), call->texts,
                     iicp_event_json(event).ptr + 1);
    } else {
        iicp_bytes body = iicp_event_body(event);
        /* A speech's body is its sound, and the sound of a case is plain text. */
        int speech = calls[iicp_event_tag(event)].speech;
        const char *name = speech ? "audio" : "result", *quote = speech ? "\"" : "";
        text = print("{\"node\":%s,\"%s\":%s%.*s%s,%s", node_place(json_string(json, "node_id")), name, quote, (int)body.len,
                     (const char *)body.ptr, quote, iicp_event_json(event).ptr + 1);
    }
    json_free(json);
    return text;
}

/* Takes events until every call from `first` on with this name has its outcome. */
static void wait_for(const char *name, size_t first) {
    for (size_t i = first; i < call_count; i++) {
        while (strcmp(calls[i].name, name) == 0 && !calls[i].outcome) {
            iicp_event *event = NULL;
            OK(iicp_queue_next(queue, LONG, &event, NULL));
            if (iicp_event_kind_of(event) == IICP_EVENT_RANK) rank(event);
            else if (iicp_event_kind_of(event) == IICP_EVENT_CHUNK) add_part(event);
            else calls[iicp_event_tag(event)].outcome = outcome(event);
            iicp_event_free(event);
        }
    }
}

static int check(const struct json *expect, const char *text, double took) {
    struct json *actual = json_parse(text), *within = json_get(expect, "within_ms"), *says = json_get(expect, "says");
    const char *message = json_string(actual, "message");
    int good = !json_get(expect, "code") == !json_get(actual, "code");
    good = good && (!expect || json_holds(expect, actual, "says within_ms")) && !strstr(message, "canary");
    for (says = says ? says->child : NULL; says; says = says->next) good = good && strstr(message, says->text);
    good = good && (!within || took <= within->number);
    if (!good) printf("    expected %.*s, got %.600s in %.0f ms\n", expect ? (int)expect->len : 2, expect ? expect->raw : "{}", text, took);
    json_free(actual);
    return good;
}

static int run_step(const struct json *step) {
    const struct json *command = json_get(step, "stage"), *expect = json_get(step, "expect");
    const char *name = json_string(step, "as"), *join = json_string(step, "join"), *cancel = json_string(step, "cancel");
    double begun = now();
    if (command) {
        char *answer = stage("%.*s", command->raw, (int)command->len);
        if (answer && json_get(command, "add_node")) set_scene(answer);
        else free(answer);
        return answer != NULL;
    }
    if (json_get(step, "client_new")) {
        new_client_as(json_get(step, "client_new"));
        char *text = no_client ? failure(no_client, NULL) : print("{}");
        int good = check(expect, text, now() - begun);
        free(text);
        return good;
    }
    if (*join || *cancel) {
        name = *join ? join : cancel;
        for (size_t i = 0; *cancel && i < call_count; i++)
            if (strcmp(calls[i].name, name) == 0) iicp_op_cancel(calls[i].op, NULL);
    } else {
        CHECK(client.id, "there is no client: %s", iicp_error_message(no_client).ptr);
        const struct json *parallel = json_get(step, "parallel");
        if (!*name) name = print("step at %p", (const void *)step); /* of its own */
        for (int i = parallel ? (int)parallel->number : 1; i > 0; i--) start(step, name);
        if (*json_string(step, "as")) return 1;
    }
    wait_for(name, 0);
    int good = 1;
    for (size_t i = 0; i < call_count; i++)
        if (strcmp(calls[i].name, name) == 0) good = check(expect, calls[i].outcome, now() - begun) && good;
    if (name != join && name != cancel) free((char *)name);
    return good;
}

static int run_case(const struct json *given) {
    const struct json *setup = json_get(given, "setup"), *ledger = json_get(given, "ledger");
    char *answer = stage("{\"setup\":%.*s}", setup ? setup->raw : "{}", setup ? (int)setup->len : 2);
    if (!answer) return 0;
    set_scene(answer);
    ranked = 0;
    for (struct json *step = json_get(given, "do")->child; step; step = step->next) ranked = ranked || json_get(step, "rank");
    new_client_as(json_get(given, "client"));
    int good = 1, number = 1;
    for (struct json *step = json_get(given, "do")->child; step && good; step = step->next, number++)
        if (!(good = run_step(step))) printf("    in step %d\n", number);
    if (good && ledger) {
        answer = stage("{\"await\":{\"ledger\":%.*s,\"within_ms\":10000}}", ledger->raw, (int)ledger->len);
        good = answer != NULL;
        free(answer);
    }
    iicp_client_close(client);
    client.id = 0;
    for (size_t i = 0; i < call_count; i++) {
        wait_for(calls[i].name, i);
        free(calls[i].outcome);
        free(calls[i].texts);
    }
    call_count = 0;
    free(stage("{\"teardown\":{}}", "", 0));
    return good;
}

int main(int argc, char **argv) {
    int to[2], from[2], ran = 0, failed = 0;
    CHECK(argc > 2 && pipe(to) == 0 && pipe(from) == 0);
    if (fork() == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        close(to[1]);
        execl(argv[1], argv[1], (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    to_stage = fdopen(to[1], "w");
    from_stage = fdopen(from[0], "r");
    runtime = new_runtime();
    queue = new_queue(runtime);
    const char *wanted = getenv("CASE");
    for (int i = 2; i < argc; i++) {
        FILE *file = fopen(argv[i], "r");
        char *text = NULL;
        size_t room = 0;
        CHECK(file && getdelim(&text, &room, 0, file) > 0, "%s", argv[i]);
        fclose(file);
        struct json *table = json_parse(text);
        for (struct json *one = table->child; one; one = one->next) {
            if (wanted && !strstr(json_string(one, "name"), wanted)) continue;
            ran++;
            if (!run_case(one)) {
                failed++;
                printf("FAILED %s: %s\n", json_string(one, "name"), json_string(one, "promise"));
            }
        }
        json_free(table);
        free(text);
    }
    json_free(scene);
    free(scene_text);
    iicp_error_free(no_client);
    OK(iicp_runtime_free(runtime));
    printf("%d of %d cases passed\n", ran - failed, ran);
    return failed > 0 || ran == 0;
}
