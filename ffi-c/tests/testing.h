/* Functions of a library that was built with the feature `testing`; see ../src/testing.rs. */
#ifndef TESTING_H
#define TESTING_H

#include <iicp.h>

void iicp_test_panic_next(void);
iicp_code iicp_test_script(iicp_queue queue, iicp_str script_json, uint64_t tag, uint64_t *op, iicp_error **err);
iicp_code iicp_test_alive(iicp_runtime runtime, uint64_t *out, iicp_error **err);

static inline uint64_t alive(iicp_runtime runtime) {
    uint64_t count = 0;
    OK(iicp_test_alive(runtime, &count, NULL));
    return count;
}

/* An operation that never ends by itself. */
static inline uint64_t hang(iicp_queue queue, uint64_t tag) {
    uint64_t op = 0;
    OK(iicp_test_script(queue, iicp_text("{\"hang\":true}"), tag, &op, NULL));
    return op;
}

#endif
