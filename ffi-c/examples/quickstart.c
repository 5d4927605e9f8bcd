/*
 * A directory, a node and a client in one program and one thread: everything comes out of one queue.
 *
 *     cc quickstart.c $(pkg-config --cflags --libs iicp) -o quickstart && ./quickstart
 */
#include <iicp.h>
#include <stdio.h>
#include <stdlib.h>

enum { DIRECTORY = 1, NODE, CHAT, CLOSE };

static void check(iicp_code code, const iicp_error *err) {
    if (code != IICP_OK) {
        fprintf(stderr, "%s: %s\n", iicp_code_name(code).ptr, iicp_error_message(err).ptr);
        exit(1);
    }
}

int main(void) {
    iicp_error *err = NULL;
    iicp_runtime runtime = {0};
    iicp_queue queue = {0};
    iicp_client client = {0};
    char url[128] = "", options[256];

    check(iicp_runtime_new(IICP_ABI_VERSION, iicp_text(NULL), &runtime, &err), err);
    check(iicp_queue_new(runtime, iicp_text(NULL), &queue, &err), err);
    check(iicp_directory_bind(queue, iicp_text(IICP_DIRECTORY_LOOPBACK), DIRECTORY, NULL, &err), err);

    for (int done = 0; !done;) {
        iicp_event *event = NULL;
        check(iicp_queue_next(queue, 30000, &event, &err), err);
        const char *json = iicp_event_json(event).ptr;
        if (iicp_event_kind_of(event) == IICP_EVENT_TASK) { /* somebody asks our node */
            const char *reply = "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"Hello from C!\"}}]}";
            check(iicp_task_finish(iicp_event_id(event), iicp_text(NULL), iicp_body(reply), &err), err);
        } else if (iicp_event_kind_of(event) == IICP_EVENT_DONE) {
            check(iicp_error_code(iicp_event_error(event)), iicp_event_error(event));
            switch (iicp_event_tag(event)) {
            case DIRECTORY: /* {"url":"http://127.0.0.1:..."} */
                sscanf(json, "{\"url\":\"%127[^\"]", url);
                snprintf(options, sizeof options, "{\"intents\":[\"%s\"],\"directory\":\"%s\"}", IICP_CHAT, url);
                check(iicp_node_serve(queue, iicp_text(options), NODE, NULL, &err), err);
                break;
            case NODE:
                printf("node: %s\n", json);
                snprintf(options, sizeof options, "{\"directory\":\"%s\"}", url);
                check(iicp_client_new(runtime, iicp_text(options), &client, &err), err);
                iicp_str chat = iicp_text("{\"messages\":[{\"role\":\"user\",\"content\":\"Hello, mesh.\"}]}");
                check(iicp_client_chat(client, queue, chat, CHAT, NULL, &err), err);
                break;
            case CHAT:
                printf("reply: %s\n", json);
                done = 1;
                break;
            }
        }
        iicp_event_free(event);
    }
    check(iicp_runtime_shutdown(runtime, 5000, &err), err); /* the node leaves the directory */
    iicp_runtime_free(runtime);
    return 0;
}
