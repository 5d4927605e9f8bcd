/*
 * One half of every pair: a node and a client of this language, told by lines what to do. The driver `pairs` of
 * tests/src/bin tells them; what it may tell stands in tests/cases/README.md.
 */
#include "json.h"
#include <poll.h>
#include <time.h>
#include <unistd.h>

static iicp_queue queue;
static iicp_client client;
static unsigned seen, cancelled;

/* What runs: submits of ours by the number that we were told, tasks of the node by their own. */
struct running { uint64_t id, op; double due, ms; int take; char *parts; struct running *next; };
static struct running *submits, *sleepers;

static void begin(struct running **list, struct running running) {
    struct running *new = malloc(sizeof *new);
    *new = running;
    new->next = *list;
    *list = new;
}

static struct running **find(struct running **list, uint64_t id) {
    while (*list && (*list)->id != id) list = &(*list)->next;
    return list;
}

static void end(struct running **one) {
    struct running *gone = *one;
    *one = gone->next;
    free(gone->parts);
    free(gone);
}

static double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

/* Numbers from 0: few enough to be given at once. */
static void count(uint64_t task, int to) {
    for (int number = 0; number < to; number++) {
        char *part = print("%d", number);
        OK(iicp_task_chunk(task, iicp_text(NULL), iicp_body(part), NULL));
        free(part);
    }
    OK(iicp_task_finish(task, iicp_text(NULL), iicp_body(NULL), NULL));
}

static void handle(const iicp_event *event) {
    uint64_t task = iicp_event_id(event);
    iicp_bytes body = iicp_event_body(event);
    char *text = print("%.*s", (int)body.len, (const char *)body.ptr), *reply = NULL;
    struct json *payload = json_parse(text), *value = json_get(payload, "value"), *ms = json_get(payload, "ms");
    const char *what = json_string(payload, "do");
    seen++;
    if (strcmp(what, "echo") == 0) reply = print("{\"echo\":%.*s}", (int)value->len, value->raw);
    else if (strcmp(what, "throw") == 0) iicp_task_fail(task, IICP_INTERNAL, iicp_text("as told"), NULL);
    else if (strcmp(what, "count") == 0) count(task, (int)json_get(payload, "to")->number);
    else if (strcmp(what, "drip") == 0) {
        OK(iicp_task_chunk(task, iicp_text(NULL), iicp_body("0"), NULL));
        begin(&sleepers, (struct running){.id = task, .due = now_ms() + 60e3, .ms = -1});
    } else if (strcmp(what, "slow") == 0) begin(&sleepers, (struct running){.id = task, .due = now_ms() + ms->number, .ms = ms->number});
    else if (strcmp(what, "wait") == 0) begin(&sleepers, (struct running){.id = task, .due = now_ms() + 60e3, .ms = -1});
    else iicp_task_fail(task, IICP_TASK_REJECTED, iicp_text("the piano is out of tune"), NULL);
    if (reply) iicp_task_finish(task, iicp_text(NULL), iicp_body(reply), NULL);
    json_free(payload);
    free(reply);
    free(text);
}

static void wake_sleepers(void) {
    for (struct running **one = &sleepers; *one;) {
        if ((*one)->due > now_ms()) {
            one = &(*one)->next;
            continue;
        }
        char *reply = print("{\"slept\":%.0f}", (*one)->ms);
        if ((*one)->ms < 0) iicp_task_fail((*one)->id, IICP_TASK_REJECTED, iicp_text("nobody cancelled"), NULL);
        else iicp_task_finish((*one)->id, iicp_text(NULL), iicp_body(reply), NULL);
        free(reply);
        end(one);
    }
}

static void answer_error(uint64_t id, const iicp_error *error) {
    struct json *json = json_parse(iicp_error_json(error).ptr), *wire = json_get(json, "wire_code");
    printf("{\"id\":%llu,\"error\":\"%s\",\"wire_code\":%.*s}\n", (unsigned long long)id, iicp_error_name(error).ptr,
           wire ? (int)wire->len : 4, wire ? wire->raw : "null");
    json_free(json);
}

/* A part of a stream: who has as many as it takes leaves. */
static void add(const iicp_event *event) {
    struct running *submit = *find(&submits, iicp_event_tag(event));
    iicp_bytes body = iicp_event_body(event);
    if (submit->take == 0) return;
    char *parts = print("%s%s%.*s", submit->parts ? submit->parts : "", submit->parts ? "," : "", (int)body.len, (const char *)body.ptr);
    free(submit->parts);
    submit->parts = parts;
    if (--submit->take == 0) iicp_op_cancel(submit->op, NULL);
}

static void finish(const iicp_event *event) {
    uint64_t id = iicp_event_tag(event);
    iicp_bytes body = iicp_event_body(event);
    struct running *submit = *find(&submits, id);
    int left = submit->parts && submit->take == 0;
    if (submit->parts && (left || !iicp_event_error(event)))
        printf("{\"id\":%llu,\"payload\":[%s]}\n", (unsigned long long)id, submit->parts);
    else if (iicp_event_error(event)) answer_error(id, iicp_event_error(event));
    else printf("{\"id\":%llu,\"payload\":%.*s}\n", (unsigned long long)id, (int)body.len, (const char *)body.ptr);
    end(find(&submits, id));
}

static void take_events(void) {
    iicp_event *event = NULL;
    while (iicp_queue_next(queue, 0, &event, NULL) == IICP_OK) {
        struct running **sleeper = find(&sleepers, iicp_event_id(event));
        switch (iicp_event_kind_of(event)) {
        case IICP_EVENT_TASK: handle(event); break;
        case IICP_EVENT_CHUNK: add(event); break;
        case IICP_EVENT_DONE: finish(event); break;
        case IICP_EVENT_TASK_CANCEL:
            if (*sleeper) cancelled++, end(sleeper);
        }
        iicp_event_free(event);
    }
}

static void obey(const char *line) {
    struct json *command = json_parse(line), *cancel = json_get(command, "cancel"), *number = json_get(command, "id");
    uint64_t id = number ? (uint64_t)number->number : 0;
    iicp_error *err = NULL;
    if (cancel) {
        struct running **submit = find(&submits, (uint64_t)cancel->number);
        if (*submit) iicp_op_cancel((*submit)->op, NULL);
    } else if (json_get(command, "status")) {
        printf("{\"id\":%llu,\"seen\":%u,\"cancelled\":%u}\n", (unsigned long long)id, seen, cancelled);
    } else {
        struct json *payload = json_get(command, "payload"), *timeout = json_get(command, "timeout_ms");
        char *task = print("{\"intent\":\"%s\",\"timeout_ms\":%.0f}", json_string(command, "intent"), timeout->number);
        iicp_bytes body = {(const uint8_t *)payload->raw, payload->len};
        struct json *take = json_get(command, "take");
        struct running submit = {.id = id, .take = take ? (int)take->number : 0};
        iicp_code code = take ? iicp_client_stream(client, queue, iicp_text(task), body, id, &submit.op, &err)
                              : iicp_client_submit(client, queue, iicp_text(task), body, id, &submit.op, &err);
        if (code == IICP_OK) begin(&submits, submit);
        else answer_error(id, err);
        iicp_error_free(err);
        free(task);
    }
    json_free(command);
}

int main(int argc, char **argv) {
    CHECK(argc == 3 || argc == 4, "usage: mate DIRECTORY_URL INTENT [NODE_OPTIONS]");
    iicp_runtime runtime = new_runtime();
    queue = new_queue(runtime);
    client = new_client(runtime, argv[1]);
    /* What more there is stands in braces of its own. */
    const char *more = argc == 4 ? argv[3] : "{}", *comma = more[1] == '}' ? "" : ",";
    char *options = print("{\"directory\":\"%s\",\"intents\":[\"%s\"],\"max_concurrent\":2%s%s", argv[1], argv[2], comma, more + 1);
    OK(iicp_node_serve(queue, iicp_text(options), 0, NULL, NULL));
    free(options);
    iicp_event *ready = take(queue, IICP_EVENT_DONE);
    struct json *node = json_parse(iicp_event_json(ready).ptr);
    printf("{\"ready\":\"%s\"}\n", json_string(node, "node_id"));
    json_free(node);
    iicp_event_free(ready);

    static char input[1 << 20];
    size_t have = 0;
    struct pollfd watch[2] = {{0, POLLIN, 0}, {-1, POLLIN, 0}};
    OK(iicp_queue_fd(queue, &watch[1].fd, NULL));
    for (;;) {
        fflush(stdout);
        poll(watch, 2, sleepers ? 10 : -1);
        take_events();
        wake_sleepers();
        if (!watch[0].revents) continue;
        ssize_t more = read(0, input + have, sizeof input - 1 - have);
        if (more <= 0) break;
        have += (size_t)more;
        input[have] = 0;
        for (char *line; (line = strchr(input, '\n')); memmove(input, line + 1, have + 1)) {
            *line = 0;
            have -= (size_t)(line + 1 - input);
            obey(input);
        }
    }
    OK(iicp_runtime_shutdown(runtime, 4000, NULL));
    OK(iicp_runtime_free(runtime));
    return 0;
}
