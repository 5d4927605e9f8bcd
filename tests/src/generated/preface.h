/*
 * iicp.h - the C interface of iicp-core: client, serving node and embedded directory of the IICP mesh.
 *
 * Made by `cargo gen` from ffi-c/src; do not edit.
 *
 * One idea: commands in, events out. A function starts an operation, returns at once and tells its id. What becomes of
 * it comes out of a queue as events: any number of IICP_EVENT_CHUNK and then exactly one IICP_EVENT_DONE, whatever
 * happens: also after a cancel, a close or a shutdown. Inbound tasks of a node are events too, answered by their id, and
 * so are the questions of a client with an external ranker. A program takes events with iicp_queue_next on any thread,
 * or watches iicp_queue_fd in its event loop and drains. Who only asks now and then uses the functions that end in
 * _wait.
 *
 * Codes. Every function that can fail returns an iicp_code. Results are written only on success. The last argument
 * takes the address of an iicp_error pointer, or NULL if the code is enough; the error is written only on failure, and
 * then is yours to free. Beside the codes that a function lists, each can return IICP_NULL_ARG and IICP_INVALID_ARG for
 * a pointer, a length or a text that cannot be right, and IICP_PANIC.
 *
 * Ownership. Arguments are only lent: what is needed of them is copied before the call returns. Handles (iicp_client
 * and so on) are numbers: one that was freed, is of another kind or never was is the code IICP_STALE_ID, never a fault
 * of memory. Only events and errors are memory of yours, freed once each by iicp_event_free and iicp_error_free; what
 * was read from one lives as long as it does. Freeing nothing (NULL, or id 0) is fine.
 *
 * Threads. Every function may be called on any thread, also several at the same time on the same handle; what is said
 * otherwise is said there. No function blocks unless its comment says that it waits. The library calls no code of yours
 * but the doorbell of iicp_queue_on_wake, installs no signal handler, and prints nothing unless it panics.
 *
 * Options are JSON texts; the empty text means all defaults. README.md lists every option. An unknown name or a value
 * out of range is IICP_CONFIG_INVALID, with a message that names it.
 *
 * Fork. In a child of fork() every handle of the parent is IICP_FORKED; make a new runtime there.
 *
 * Exit. iicp_runtime_shutdown before the end of main lets nodes leave their directory. Without it the process just ends.
 *
 * Panics inside the library come back as IICP_PANIC; they never unwind into C.
 */
