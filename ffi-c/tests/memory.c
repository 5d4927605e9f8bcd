/* Memory: what was used is given back, over any number of calls. */
#include "mesh.h"
#include <malloc.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* Memory of this process, in KiB. */
static long resident(void) {
    long kib = 0;
    char line[128];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status)) sscanf(line, "VmRSS: %ld", &kib);
    if (status) fclose(status);
    return kib;
}

/* Bytes that the heap has given out. */
static double heap(void) {
    struct mallinfo2 info = mallinfo2();
    return (double)info.uordblks + (double)info.hblkhd;
}

/* A node in a process of its own: what it remembers of tasks, to answer them once, is bounded, but not small. */
static pid_t serve_elsewhere(char url[128]) {
    int said[2];
    CHECK(pipe(said) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0) {
        CHECK(read(said[0], url, 128) == 128);
        return child;
    }
    alarm(300);
    struct mesh mesh = new_mesh(",\"max_concurrent\":64");
    CHECK(write(said[1], mesh.url, sizeof mesh.url) == sizeof mesh.url);
    for (;;) {
        iicp_event *task = take(mesh.serving, IICP_EVENT_TASK);
        OK(iicp_task_finish(iicp_event_id(task), NOTHING, iicp_event_body(task), NULL));
        iicp_event_free(task);
    }
}

static void twenty_thousand_calls_take_no_memory(void) {
    enum { CALLS = 20000, AT_ONCE = 50 };
    struct mesh mesh;
    pid_t node = serve_elsewhere(mesh.url);
    mesh.runtime = new_runtime();
    mesh.asking = new_queue(mesh.runtime);
    mesh.client = new_client(mesh.runtime, mesh.url);
    double half = 0, per_call;
    for (int i = 0; i < CALLS; i += AT_ONCE) {
        for (int k = 0; k < AT_ONCE; k++) submit(&mesh, "{\"text\":\"some words\"}", 0);
        for (int k = 0; k < AT_ONCE; k++) OK(done(mesh.asking, NULL));
        if (i == CALLS / 2) half = heap();
    }
    per_call = (heap() - half) / (CALLS / 2);
    CHECK(per_call < 50, "%.0f bytes are left of each call", per_call);
    OK(iicp_runtime_free(mesh.runtime));
    kill(node, SIGKILL);
    waitpid(node, NULL, 0);
}

static void ten_thousand_cancels_take_no_memory(void) {
    enum { STORM = 10000 };
    struct mesh mesh = new_mesh(",\"max_concurrent\":256");
    long warm = 0;
    for (int i = 0; i < STORM; i += 100) {
        uint64_t ops[100];
        for (int k = 0; k < 100; k++) ops[k] = submit(&mesh, "{}", (uint64_t)k);
        for (int k = 0; k < 100; k++) iicp_op_cancel(ops[k], NULL);
        for (int k = 0; k < 100; k++) CODE(done(mesh.asking, NULL), IICP_CANCELLED);
        iicp_event *event = NULL;
        while (iicp_queue_next(mesh.serving, 0, &event, NULL) == IICP_OK) iicp_event_free(event);
        if (i == STORM / 5) warm = resident();
    }
    long grown = resident() - warm;
    CHECK(grown < 8 * 1024, "grew by %ld KiB", grown);
    OK(iicp_runtime_free(mesh.runtime));
}

int main(int argc, char **argv) {
    RUN(twenty_thousand_calls_take_no_memory);
    RUN(ten_thousand_cancels_take_no_memory);
    return 0;
}
