/*
 * Asks the mesh, and prints the reply as JSON.
 *
 *     cc ask.c $(pkg-config --cflags --libs iicp) -o ask && ./ask "What is the capital of France?" [DIRECTORY]
 */
#include <iicp.h>
#include <stdio.h>
#include <stdlib.h>

static void check(iicp_code code, const iicp_error *err) {
    if (code != IICP_OK) {
        fprintf(stderr, "%s: %s\n", iicp_code_name(code).ptr, iicp_error_message(err).ptr);
        exit(1);
    }
}

/* What a JSON string holds, which is the text but for quotes, backslashes and control characters. */
static void quote(const char *text, char *into, size_t size) {
    for (size_t at = 0; *text && at + 3 < size; text++) {
        if (*text == '"' || *text == '\\') into[at++] = '\\';
        into[at++] = (unsigned char)*text < ' ' ? ' ' : *text;
        into[at] = '\0';
    }
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: ask QUESTION [DIRECTORY]\n");
        return 2;
    }
    char question[2048] = "", chat[2304], options[512];
    quote(argv[1], question, sizeof question);
    snprintf(chat, sizeof chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"max_tokens\":64}", question);
    snprintf(options, sizeof options, "{\"directory\":\"%s\"}", argc > 2 ? argv[2] : "http://127.0.0.1:9480");

    iicp_error *err = NULL;
    iicp_runtime runtime = {0};
    iicp_client client = {0};
    iicp_event *reply = NULL;
    check(iicp_runtime_new(IICP_ABI_VERSION, iicp_text(NULL), &runtime, &err), err);
    check(iicp_client_new(runtime, iicp_text(options), &client, &err), err);
    check(iicp_client_chat_wait(client, iicp_text(chat), &reply, &err), err);
    puts(iicp_event_json(reply).ptr);
    iicp_event_free(reply);
    iicp_runtime_shutdown(runtime, 5000, NULL);
    iicp_runtime_free(runtime);
    return 0;
}
