/* What a process may do to the library: fork, end at any time, load it twice, unload it. */
#include "check.h"
#include "testing.h"
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs `body` in a child of its own, which must end by itself with this status. */
static void in_child(void (*body)(void), int status) {
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        body();
        exit(status);
    }
    int how = 0;
    CHECK(waitpid(child, &how, 0) == child);
    CHECK(WIFEXITED(how) && WEXITSTATUS(how) == status, "signal %d, status %d", WTERMSIG(how), WEXITSTATUS(how));
}

/* A node with a task that nobody answers, and the client that asked. */
static void begin_a_task(void) {
    iicp_runtime runtime = new_runtime();
    iicp_queue queue = new_queue(runtime), asking = new_queue(runtime);
    char url[128];
    new_directory(queue, url);
    new_node(queue, url, "");
    iicp_client client = new_client(runtime, url);
    iicp_str task = iicp_text("{\"intent\":\"" IICP_CHAT "\"}");
    OK(iicp_client_submit(client, asking, task, iicp_body("{}"), 0, NULL, NULL));
    iicp_event_free(take(queue, IICP_EVENT_TASK));
}

static void exit_now(void) { begin_a_task(); exit(3); }
static void exit_at_once(void) { begin_a_task(); _exit(3); }

static void a_process_may_end_with_a_task_and_an_operation_pending(void) {
    in_child(exit_now, 3);
    in_child(exit_at_once, 3);
    in_child(begin_a_task, 3);
}

/* Ctrl-C while a call waits ends the process as if the library were not there. */
static void a_signal_ends_a_process_that_waits(void) {
    int ready[2];
    char byte = 0;
    CHECK(pipe(ready) == 0);
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        iicp_event *event = NULL;
        iicp_queue queue = new_queue(new_runtime());
        CHECK(write(ready[1], "", 1) == 1);
        iicp_queue_next(queue, LONG, &event, NULL);
        _exit(3);
    }
    CHECK(read(ready[0], &byte, 1) == 1);
    int how = 0;
    CHECK(kill(child, SIGINT) == 0 && waitpid(child, &how, 0) == child);
    CHECK(WIFSIGNALED(how) && WTERMSIG(how) == SIGINT, "status %x", (unsigned)how);
}

static iicp_runtime parent;
static iicp_queue parent_queue;
static iicp_client parent_client;

static void use_what_the_parent_made(void) {
    iicp_error *err = NULL;
    iicp_event *event = NULL;
    size_t count = 0;
    FAILS(iicp_queue_next(parent_queue, LONG, &event, &err), IICP_FORKED);
    FAILS(iicp_queue_drain(parent_queue, &event, 1, &count, &err), IICP_FORKED);
    FAILS(iicp_queue_new(parent, NOTHING, &parent_queue, &err), IICP_FORKED);
    FAILS(iicp_client_chat(parent_client, parent_queue, NOTHING, 0, NULL, &err), IICP_FORKED);
    FAILS(iicp_client_chat_wait(parent_client, NOTHING, &event, &err), IICP_FORKED);
    FAILS(iicp_runtime_shutdown(parent, 1000, &err), IICP_FORKED);
    CODE(iicp_queue_free(parent_queue), IICP_FORKED);
    CODE(iicp_client_close(parent_client), IICP_FORKED);
    CODE(iicp_runtime_free(parent), IICP_FORKED);
    /* A new one works. */
    iicp_runtime runtime = new_runtime();
    CHECK(runtime.id != parent.id);
    iicp_queue queue = new_queue(runtime);
    OK(iicp_test_script(queue, NOTHING, 0, NULL, NULL));
    OK(done(queue, NULL));
    OK(iicp_runtime_free(runtime));
}

static volatile int stop;

/* Keeps every lock of the library busy while the process forks. */
static void *keep_busy(void *nothing) {
    while (!stop) {
        OK(iicp_queue_free(new_queue(parent)));
        iicp_runtime other = new_runtime();
        OK(iicp_runtime_free(other));
    }
    return nothing;
}

static void a_forked_child_is_told_and_may_begin_anew(void) {
    parent = new_runtime();
    parent_queue = new_queue(parent);
    parent_client = new_client(parent, "http://127.0.0.1:1");
    pthread_t busy;
    CHECK(pthread_create(&busy, NULL, keep_busy, NULL) == 0);
    for (int i = 0; i < 20; i++) in_child(use_what_the_parent_made, 0);
    stop = 1;
    pthread_join(busy, NULL);
    OK(iicp_test_script(parent_queue, NOTHING, 0, NULL, NULL));
    OK(done(parent_queue, NULL));
    OK(iicp_runtime_free(parent));
}

static void the_library_leaves_signals_alone(void) {
    struct sigaction before[32], after;
    for (int i = 1; i < 32; i++) sigaction(i, NULL, &before[i]);
    iicp_runtime runtime = new_runtime();
    OK(iicp_runtime_free(runtime));
    for (int i = 1; i < 32; i++) {
        sigaction(i, NULL, &after);
        CHECK(before[i].sa_handler == after.sa_handler, "signal %d", i);
    }
}

#define LOAD(name)                                                                                                     \
    __typeof__(&name) name##_;                                                                                         \
    *(void **)&name##_ = dlsym(library, #name);                                                                        \
    CHECK(name##_)

/* A second copy of the library under another name: both work, and neither knows the other's handles. */
static void two_copies_work_beside_each_other(void) {
    const char *path = getenv("IICP_SECOND_COPY");
    CHECK(path, "IICP_SECOND_COPY names a copy of the library");
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(library, "%s", dlerror());
    LOAD(iicp_runtime_new);
    LOAD(iicp_runtime_free);
    LOAD(iicp_queue_new);
    LOAD(iicp_queue_next);
    LOAD(iicp_event_free);
    LOAD(iicp_test_script);
    CHECK(iicp_runtime_new_ != iicp_runtime_new, "a copy of its own");
    iicp_runtime ours = new_runtime(), theirs = {0};
    OK(iicp_runtime_new_(IICP_ABI_VERSION, NOTHING, &theirs, NULL));
    iicp_queue queue = new_queue(ours), other = {0};
    OK(iicp_queue_new_(theirs, NOTHING, &other, NULL));
    OK(iicp_test_script(queue, NOTHING, 1, NULL, NULL));
    OK(iicp_test_script_(other, NOTHING, 2, NULL, NULL));
    OK(done(queue, NULL));
    iicp_event *event = NULL;
    OK(iicp_queue_next_(other, LONG, &event, NULL));
    CHECK(iicp_event_tag(event) == 2);
    iicp_event_free_(event);
    /* Unloaded while its threads run: it stays, so they have code to run. */
    CHECK(dlclose(library) == 0);
    OK(iicp_test_script_(other, NOTHING, 3, NULL, NULL));
    OK(iicp_queue_next_(other, LONG, &event, NULL));
    iicp_event_free_(event);
    OK(iicp_runtime_free_(theirs));
    OK(iicp_runtime_free(ours));
}

int main(int argc, char **argv) {
    RUN(the_library_leaves_signals_alone);
    RUN(a_process_may_end_with_a_task_and_an_operation_pending);
    RUN(a_signal_ends_a_process_that_waits);
    RUN(a_forked_child_is_told_and_may_begin_anew);
    RUN(two_copies_work_beside_each_other);
    return 0;
}
