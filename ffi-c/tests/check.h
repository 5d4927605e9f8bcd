/* What the C tests share: checks that say where they failed, and the ways to wait for an event. */
#ifndef CHECK_H
#define CHECK_H

#include <iicp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s is not so.", __FILE__, __LINE__, #condition);                                   \
            fprintf(stderr, " " __VA_ARGS__);                                                                          \
            fprintf(stderr, "\n");                                                                                     \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* That a call returns a code. */
#define CODE(call, wanted)                                                                                             \
    do {                                                                                                               \
        iicp_code code_ = (call);                                                                                      \
        CHECK(code_ == (wanted), "%s returned %s, not %s", #call, iicp_code_name(code_).ptr,                           \
              iicp_code_name(wanted).ptr);                                                                             \
    } while (0)
#define OK(call) CODE(call, IICP_OK)

/* That a call fails with a code, and with an error that says the same. Needs a variable `err` that is NULL. */
#define FAILS(call, wanted)                                                                                            \
    do {                                                                                                               \
        CODE(call, wanted);                                                                                            \
        CHECK(iicp_error_code(err) == (wanted), "%s", #call);                                                          \
        CHECK(iicp_error_message(err).len > 10, "%s", #call);                                                          \
        iicp_error_free(err);                                                                                          \
        err = NULL;                                                                                                    \
    } while (0)

#define LONG 60000
static const iicp_str NOTHING = {NULL, 0};

static inline iicp_runtime new_runtime(void) {
    iicp_runtime runtime = {0};
    OK(iicp_runtime_new(IICP_ABI_VERSION, NOTHING, &runtime, NULL));
    return runtime;
}

static inline iicp_queue new_queue(iicp_runtime runtime) {
    iicp_queue queue = {0};
    OK(iicp_queue_new(runtime, NOTHING, &queue, NULL));
    return queue;
}

/* The next event, of this kind. */
static inline iicp_event *take(iicp_queue queue, iicp_event_kind kind) {
    iicp_event *event = NULL;
    OK(iicp_queue_next(queue, LONG, &event, NULL));
    CHECK(iicp_event_kind_of(event) == kind, "kind %d: %s", iicp_event_kind_of(event), iicp_event_json(event).ptr);
    return event;
}

/* Takes the next event, which is a DONE; returns its code, and what it made. */
static inline iicp_code done(iicp_queue queue, uint64_t *handle) {
    iicp_event *event = take(queue, IICP_EVENT_DONE);
    iicp_code code = iicp_error_code(iicp_event_error(event));
    if (handle) *handle = iicp_event_handle(event);
    iicp_event_free(event);
    return code;
}

static inline iicp_client new_client(iicp_runtime runtime, const char *url) {
    char options[256];
    snprintf(options, sizeof options, "{\"directory\":\"%s\"}", url);
    iicp_client client = {0};
    OK(iicp_client_new(runtime, iicp_text(options), &client, NULL));
    return client;
}

/* A directory, and where it is. */
static inline iicp_directory new_directory(iicp_queue queue, char url[128]) {
    iicp_directory directory = {0};
    OK(iicp_directory_bind(queue, iicp_text(IICP_DIRECTORY_LOOPBACK), 0, NULL, NULL));
    iicp_event *event = take(queue, IICP_EVENT_DONE);
    CHECK(sscanf(iicp_event_json(event).ptr, "{\"url\":\"%127[^\"]", url) == 1);
    directory.id = iicp_event_handle(event);
    iicp_event_free(event);
    return directory;
}

/* A node that serves chats with `more` options, such as ",\"max_concurrent\":64". */
static inline iicp_node new_node(iicp_queue queue, const char *url, const char *more) {
    char options[512];
    snprintf(options, sizeof options, "{\"intents\":[\"%s\"],\"directory\":\"%s\"%s}", IICP_CHAT, url, more);
    iicp_node node = {0};
    OK(iicp_node_serve(queue, iicp_text(options), 0, NULL, NULL));
    OK(done(queue, &node.id));
    return node;
}

/* Runs a test unless only others are asked for, and says so. */
#define RUN(test)                                                                                                      \
    do {                                                                                                               \
        if (argc < 2 || strstr(#test, argv[1])) {                                                                      \
            test();                                                                                                    \
            printf("ok %s\n", #test);                                                                                  \
            fflush(stdout);                                                                                            \
        }                                                                                                              \
    } while (0)

#endif
