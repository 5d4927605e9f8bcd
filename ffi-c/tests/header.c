/* The header's sizes, offsets and numbers, as programs were compiled with them. Compiled as C99, C11 and C++17. */
#include <iicp.h>
#include <iicp.h> /* twice is once */

#if defined(__cplusplus)
#define FIXED(name, condition) static_assert(condition, #name)
#else
#define FIXED(name, condition) typedef char name[(condition) ? 1 : -1]
#endif

FIXED(str_is_two_words, sizeof(iicp_str) == 2 * sizeof(void *));
FIXED(str_length_is_second, offsetof(iicp_str, len) == sizeof(void *));
FIXED(bytes_are_two_words, sizeof(iicp_bytes) == 2 * sizeof(void *));
FIXED(bytes_length_is_second, offsetof(iicp_bytes, len) == sizeof(void *));
FIXED(runtime_is_a_number, sizeof(iicp_runtime) == 8);
FIXED(queue_is_a_number, sizeof(iicp_queue) == 8);
FIXED(client_is_a_number, sizeof(iicp_client) == 8);
FIXED(node_is_a_number, sizeof(iicp_node) == 8);
FIXED(directory_is_a_number, sizeof(iicp_directory) == 8);
FIXED(code_is_an_int32, sizeof(iicp_code) == 4);
FIXED(kind_is_an_int32, sizeof(iicp_event_kind) == 4);
FIXED(abi_is_1, IICP_ABI_VERSION == 1);
FIXED(ok_is_0, IICP_OK == 0);
FIXED(stale_id_is_1010, IICP_STALE_ID == 1010);
FIXED(done_is_1, IICP_EVENT_DONE == 1);
FIXED(task_cancel_is_4, IICP_EVENT_TASK_CANCEL == 4);
FIXED(rank_is_5, IICP_EVENT_RANK == 5);
FIXED(inference_is_an_int32, sizeof(iicp_inference) == 4);
FIXED(completion_is_1, IICP_INFERENCE_COMPLETION == 1);
FIXED(moderation_is_5, IICP_INFERENCE_MODERATION == 5);

int main(void) {
    return iicp_abi_version() == IICP_ABI_VERSION && iicp_text("text").len == 4 && iicp_body(NULL).len == 0 ? 0 : 1;
}
