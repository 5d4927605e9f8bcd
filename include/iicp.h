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

#ifndef IICP_H
#define IICP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/** What a function returns that can fail: `IICP_OK` or why not. */
typedef int32_t iicp_code;

/** Every code. A later library may add some. */
enum {
    /** Success; never carried by an error. */
    IICP_OK = 0,
    /** A fault of this library; please report it. */
    IICP_INTERNAL = 1001,
    /** Code of this library or of a handler panicked; the panic was contained. */
    IICP_PANIC = 1002,
    /** A required argument was null. */
    IICP_NULL_ARG = 1003,
    /** An argument has the wrong type or form. */
    IICP_INVALID_ARG = 1004,
    /** The object was closed, or is shutting down. */
    IICP_CLOSED = 1005,
    /** The operation was cancelled by its owner. */
    IICP_CANCELLED = 1006,
    /** The caller's deadline passed before there was a result. May succeed later. */
    IICP_TIMEOUT = 1007,
    /** The object was made before a fork(); make a new one in the child. */
    IICP_FORKED = 1008,
    /** Header and library speak different versions of the C interface. */
    IICP_ABI_MISMATCH = 1009,
    /** The id names nothing that is alive: it was freed, finished or never given out. */
    IICP_STALE_ID = 1010,
    /** The event queue has no room for another operation; take events first. May succeed later. */
    IICP_QUEUE_FULL = 1011,
    /** This build or this platform cannot do what was asked. */
    IICP_UNSUPPORTED = 1012,
    /** An option is unknown, has the wrong type or a value out of range. */
    IICP_CONFIG_INVALID = 2001,
    /** The intent is not a well-formed urn:iicp:intent URN. */
    IICP_INTENT_INVALID = 2002,
    /** The timeout is over the cap of 120,000 ms. */
    IICP_TIMEOUT_TOO_LARGE = 2003,
    /** A routing policy refused the task before anything was sent. */
    IICP_POLICY_REFUSED = 2004,
    /** The endpoint is not one that may be called. */
    IICP_ENDPOINT_REFUSED = 2005,
    /** The prompt would leave this machine unsealed. */
    IICP_CONFIDENTIALITY_REQUIRED = 2006,
    /** The payload is not valid JSON. */
    IICP_PAYLOAD_INVALID = 2007,
    /** The payload is over the size limit. */
    IICP_PAYLOAD_TOO_LARGE = 2008,
    /** The client wants a consumer token for the provider, and the directory gave none. May succeed later. */
    IICP_CONSUMER_AUTH_REQUIRED = 2009,
    /** The application's ranker failed, or chose what is no candidate. */
    IICP_RANKER_REFUSED = 2010,
    /** The directory does not support the profile that the call requires. */
    IICP_PROFILE_UNSUPPORTED = 2011,
    /** The directory could not be reached, or could not answer. May succeed later. */
    IICP_DIRECTORY_UNREACHABLE = 3001,
    /** The directory refused the request. */
    IICP_DIRECTORY_REJECTED = 3002,
    /** No available node serves the intent with these constraints. May succeed later. */
    IICP_NO_NODES = 3003,
    /** The directory did not accept the credential. */
    IICP_DIRECTORY_UNAUTHORIZED = 3004,
    /** The directory asks for a pause. May succeed later. */
    IICP_DIRECTORY_RATE_LIMITED = 3005,
    /** The directory's answer is not one of this protocol. May succeed later. */
    IICP_DIRECTORY_MALFORMED = 3006,
    /** The directory's dispatch ticket could not be verified. */
    IICP_TICKET_REFUSED = 3007,
    /** The directory has no dispatch tickets, and the client accepts nothing else. */
    IICP_TICKETS_UNAVAILABLE = 3008,
    /** No connection to the node; the task was not sent. May succeed later. */
    IICP_CONNECT = 4001,
    /** The TLS handshake failed; the task was not sent. */
    IICP_TLS = 4002,
    /** The connection broke after the task was sent; it may have run. May succeed later. */
    IICP_LOST = 4003,
    /** The node's answer is not one of this protocol; the task may have run. May succeed later. */
    IICP_MALFORMED = 4004,
    /** The node's answer is over the size limit; the task may have run. */
    IICP_RESPONSE_TOO_LARGE = 4005,
    /** The node's answer is not sealed as agreed, or does not open. */
    IICP_REPLY_UNSEALED = 4006,
    /** The provider refused the task. */
    IICP_TASK_REJECTED = 5001,
    /** Every provider that was asked is at capacity or draining. May succeed later. */
    IICP_CAPACITY = 5002,
    /** The provider did not finish within the task's time. May succeed later. */
    IICP_TASK_TIMEOUT = 5003,
    /** The provider's handler or backend failed. May succeed later. */
    IICP_BACKEND = 5004,
    /** The provider has seen this task id with other content, or no longer holds its result. */
    IICP_DUPLICATE = 5005,
    /** The provider does not serve the intent. */
    IICP_UNKNOWN_INTENT = 5006,
    /** Not enough providers gave the same answer. May succeed later. */
    IICP_NO_CONSENSUS = 5007,
    /** The handler returned something that is not a reply. */
    IICP_HANDLER = 6001,
    /** The address to serve on could not be bound. */
    IICP_BIND = 6002,
    /** Another process, or another node of this one, serves with the same id and state folder. */
    IICP_NODE_LOCKED = 6003,
    /** The relay could not be reached, or does not speak the protocol. May succeed later. */
    IICP_RELAY_UNREACHABLE = 7001,
    /** The relay did not bind this node. May succeed later. */
    IICP_RELAY_REFUSED = 7002,
};

/** What an event says. */
typedef int32_t iicp_event_kind;

/** Every kind of event. A later library may add some. */
enum {
    /** The last event of an operation: its result or its error. Every operation has exactly one. */
    IICP_EVENT_DONE = 1,
    /** A part of an operation's result; more events of the operation follow. */
    IICP_EVENT_CHUNK = 2,
    /** An inbound task that waits for an answer. */
    IICP_EVENT_TASK = 3,
    /** An inbound task needs no answer any more: its caller left, its deadline passed or its node closed. */
    IICP_EVENT_TASK_CANCEL = 4,
    /** An operation asks the application which candidate goes first; it waits for an answer. */
    IICP_EVENT_RANK = 5,
    /** An inbound task whose part was refused with QUEUE_FULL has room for it now. */
    IICP_EVENT_TASK_ROOM = 6,
};

/** Which model task `iicp_client_infer` runs. */
typedef int32_t iicp_inference;

/** Every model task. A later library may add some. */
enum {
    /** Completes a text. */
    IICP_INFERENCE_COMPLETION = 1,
    /** Turns texts into vectors. */
    IICP_INFERENCE_EMBEDDING = 2,
    /** Writes down what is said in a sound file. */
    IICP_INFERENCE_TRANSCRIPTION = 3,
    /** Speaks a text. */
    IICP_INFERENCE_SPEECH = 4,
    /** Judges texts. */
    IICP_INFERENCE_MODERATION = 5,
};

/** How a language calls the options of the engine. */
typedef int32_t iicp_spelling;

/** Every spelling. A later library may add some. */
enum {
    /** As Rust and C: `node_ttl_ms`, and times in milliseconds. */
    IICP_SPELLING_SNAKE = 1,
    /** As Python: `node_ttl`, and times in seconds. */
    IICP_SPELLING_SECONDS = 2,
    /** As TypeScript: `nodeTtlMs`, and times in milliseconds. */
    IICP_SPELLING_CAMEL = 3,
    /** As Go: `NodeTTLMs`, and times in milliseconds. */
    IICP_SPELLING_PASCAL = 4,
};

/** The intent of chats. */
#define IICP_CHAT "urn:iicp:intent:llm:chat:v1"
/** The intent of completions. */
#define IICP_COMPLETION "urn:iicp:intent:llm:completion:v1"
/** The intent of embeddings. */
#define IICP_EMBEDDING "urn:iicp:intent:llm:embedding:v1"
/** The intent of transcriptions. */
#define IICP_TRANSCRIPTION "urn:iicp:intent:audio:transcribe:v1"
/** The intent of speeches. */
#define IICP_SPEECH "urn:iicp:intent:audio:speech:v1"
/** The intent of moderations. */
#define IICP_MODERATION "urn:iicp:intent:safety:moderate:v1"

/** Options of a directory for development on this machine: nothing is probed, limited or gated. */
#define IICP_DIRECTORY_LOOPBACK "{\"limits\":false,\"probe\":false,\"qos_gating\":false}"

/**
 * Version of this interface. A library whose `iicp_abi_version()` is another one does not fit this header.
 */
#define IICP_ABI_VERSION 1

/**
 * Why a call or an operation failed: a code and a sentence that says what happened, what it was about and what to do
 * next. Never holds a token, a key or a payload.
 *
 * Who gets one from a function frees it with `iicp_error_free`; one that belongs to an event goes with the event. Any
 * number of threads may read one error at the same time.
 */
typedef struct iicp_error iicp_error;

/**
 * One event of a queue. Whoever took it owns it, and all that it shows, until `iicp_event_free`.
 *
 * Any number of threads may read one event at the same time.
 */
typedef struct iicp_event iicp_event;

/**
 * Text that somebody else owns: UTF-8, `len` bytes without a final NUL. As an argument, `{NULL, 0}` is the empty
 * text. What the library returns is followed by a NUL, so that `ptr` also is a C string, and lives as long as the
 * object that it was read from.
 */
typedef struct {
    /**
     * The first byte; NULL only if `len` is 0.
     */
    const char *ptr;
    /**
     * The number of bytes.
     */
    size_t len;
} iicp_str;

/**
 * The engine: its threads and everything that runs on them. One per process is enough; several are independent of each
 * other, and an id of one means nothing to another.
 */
typedef struct {
    /**
     * The id; 0 is nothing.
     */
    uint64_t id;
} iicp_runtime;

/**
 * Where the events of operations and the inbound tasks of nodes come out. A program needs one per thread or event loop
 * that takes events. Bounded in events and in bytes; the last event of every operation always has its place.
 */
typedef struct {
    /**
     * The id; 0 is nothing.
     */
    uint64_t id;
} iicp_queue;

/**
 * Bytes that somebody else owns. As an argument, `{NULL, 0}` is the empty body. What the library returns lives as long
 * as the object that it was read from.
 */
typedef struct {
    /**
     * The first byte; NULL only if `len` is 0.
     */
    const uint8_t *ptr;
    /**
     * The number of bytes.
     */
    size_t len;
} iicp_bytes;

/**
 * Finds nodes and sends tasks to them.
 */
typedef struct {
    /**
     * The id; 0 is nothing.
     */
    uint64_t id;
} iicp_client;

/**
 * A node that serves tasks with your code, or with an inference server.
 */
typedef struct {
    /**
     * The id; 0 is nothing.
     */
    uint64_t id;
} iicp_node;

/**
 * A directory inside this process.
 */
typedef struct {
    /**
     * The id; 0 is nothing.
     */
    uint64_t id;
} iicp_directory;

/** A view of a C string; NULL is the empty text. */
static inline iicp_str iicp_text(const char *text) {
    iicp_str view;
    view.ptr = text;
    view.len = text ? strlen(text) : 0;
    return view;
}

/** The same for a body. */
static inline iicp_bytes iicp_body(const char *text) {
    iicp_bytes view;
    view.ptr = (const uint8_t *)text;
    view.len = text ? strlen(text) : 0;
    return view;
}

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/* ---- Versions -------------------------------------------------------------------------------------------- */

/**
 * The version of the interface that the library speaks; compare it with `IICP_ABI_VERSION`. `iicp_runtime_new` does.
 *
 * Threads: any.
 */
uint32_t iicp_abi_version(void);

/**
 * The version of the library, such as `0.1.0`.
 *
 * Ownership: the text is part of the library. Threads: any.
 */
iicp_str iicp_version(void);

/* ---- Codes and errors ------------------------------------------------------------------------------------ */

/**
 * The name of a code, such as `NO_NODES`; empty if there is no such code.
 *
 * Ownership: the text is part of the library. Threads: any.
 */
iicp_str iicp_code_name(iicp_code code);

/**
 * The code of an error; `IICP_OK` of NULL.
 *
 * Threads: any.
 */
iicp_code iicp_error_code(const iicp_error *error);

/**
 * The name of the error's code, such as `NO_NODES`; empty of NULL.
 *
 * Ownership: the text is part of the library. Threads: any.
 */
iicp_str iicp_error_name(const iicp_error *error);

/**
 * What happened, what it was about and what to do next; empty of NULL.
 *
 * Ownership: the text lives as long as the error. Threads: any.
 */
iicp_str iicp_error_message(const iicp_error *error);

/**
 * The message with its options called as another language calls them, for layers on top of this one; empty of NULL, and
 * for a spelling that the library does not know.
 *
 * Ownership: the text lives as long as the error. Threads: any.
 */
iicp_str iicp_error_message_in(const iicp_error *error,
                               iicp_spelling spelling);

/**
 * The protocol's own code as the peer wrote it, such as `capacity_exceeded` or `IICP-E021`; empty if it wrote none.
 *
 * Ownership: the text lives as long as the error. Threads: any.
 */
iicp_str iicp_error_wire_code(const iicp_error *error);

/**
 * 1 if the same call may succeed later without a change by the caller, else 0.
 *
 * Threads: any.
 */
int32_t iicp_error_retryable(const iicp_error *error);

/**
 * How long the peer asked to wait before trying again, in milliseconds; -1 if it did not.
 *
 * Threads: any.
 */
int64_t iicp_error_retry_after_ms(const iicp_error *error);

/**
 * The HTTP status that the peer answered; 0 if the error did not come as an HTTP answer.
 *
 * Threads: any.
 */
int32_t iicp_error_http_status(const iicp_error *error);

/**
 * All of the error as a JSON object: `code`, `name`, `message`, `retryable`, and where known `retry_after_ms`,
 * `http_status`, `wire_code`; empty of NULL.
 *
 * Ownership: the text lives as long as the error. Threads: any.
 */
iicp_str iicp_error_json(const iicp_error *error);

/**
 * Frees an error that a function gave, with every text that was read from it. NULL is fine; an event's error is not.
 *
 * Ownership: takes the error. Threads: any, once.
 */
void iicp_error_free(iicp_error *error);

/* ---- Runtimes -------------------------------------------------------------------------------------------- */

/**
 * Starts a runtime. `abi` is `IICP_ABI_VERSION`; `options_json` are options of the runtime, empty for the defaults.
 *
 * Ownership: `*out` is yours, for `iicp_runtime_free`. Threads: any.
 * Errors: `IICP_ABI_MISMATCH` if the library does not fit the header, `IICP_CONFIG_INVALID`, `IICP_INTERNAL` if the
 * system gives no threads.
 */
iicp_code iicp_runtime_new(uint32_t abi,
                           iicp_str options_json,
                           iicp_runtime *out,
                           iicp_error **err);

/**
 * Ends everything of a runtime and stops its threads, within `timeout_ms`. Nodes leave their directory, every operation
 * gets its `IICP_EVENT_DONE`; when this has returned nobody is woken any more. What is in the queues can still be taken,
 * all else returns `IICP_CLOSED`. A second call waits for the first and returns the same.
 *
 * Threads: any, but not inside a doorbell.
 * Errors: `IICP_TIMEOUT` if something had to be stopped because it did not end in time; `IICP_STALE_ID`, `IICP_FORKED`.
 */
iicp_code iicp_runtime_shutdown(iicp_runtime runtime,
                                uint32_t timeout_ms,
                                iicp_error **err);

/**
 * Frees a runtime and everything that belongs to it: queues, clients, nodes and directories. Shuts it down first if that
 * was not done, with a second for what still runs. Events and errors that were taken stay valid. Nothing (id 0) is fine.
 *
 * Threads: any, but not inside a doorbell. Calls of other threads that are inside the runtime come back.
 * Errors: `IICP_STALE_ID` if it was freed before; `IICP_FORKED`.
 */
iicp_code iicp_runtime_free(iicp_runtime runtime);

/* ---- Queues ---------------------------------------------------------------------------------------------- */

/**
 * Makes a queue. `options_json` are options of the queue, empty for the defaults.
 *
 * Ownership: `*out` is yours, for `iicp_queue_free`. Threads: any.
 * Errors: `IICP_CONFIG_INVALID`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_queue_new(iicp_runtime runtime, iicp_str options_json, iicp_queue *out, iicp_error **err);

/**
 * Waits for the next event, at most `timeout_ms`; less than 0 waits for ever, 0 does not wait.
 *
 * Ownership: `*out` is yours, for `iicp_event_free`. Threads: any number at the same time; each event goes to one.
 * Errors: `IICP_TIMEOUT` if there was none in time; `IICP_CLOSED` when the queue was closed and nothing is left in it;
 * `IICP_STALE_ID`, `IICP_FORKED`.
 */
iicp_code iicp_queue_next(iicp_queue queue,
                          int32_t timeout_ms,
                          iicp_event **out,
                          iicp_error **err);

/**
 * Takes the events that are there, at most `most` and never more than 256, without waiting. Writes them to `events`,
 * which has room for `most`, and their number, which may be 0, to `*count`.
 *
 * Ownership: every event is yours, for `iicp_event_free`. Threads: any.
 * Errors: `IICP_CLOSED` when the queue was closed and nothing is left in it; `IICP_STALE_ID`, `IICP_FORKED`.
 */
iicp_code iicp_queue_drain(iicp_queue queue,
                           iicp_event **events,
                           size_t most,
                           size_t *count,
                           iicp_error **err);

/**
 * A descriptor for poll, epoll, kqueue or an event loop: readable exactly while the queue has events. Only watch it; it
 * is the queue's to read and to close, so stop watching before `iicp_queue_free`.
 *
 * Threads: any.
 * Errors: `IICP_UNSUPPORTED` on systems without such descriptors; `IICP_INTERNAL` if the process has none left;
 * `IICP_STALE_ID`, `IICP_FORKED`.
 */
iicp_code iicp_queue_fd(iicp_queue queue,
                        int32_t *out,
                        iicp_error **err);

/**
 * Has `wake(data)` called when the queue has events, for loops that watch no descriptors. It is called once for any
 * number of events, again after a drain that leaves some, and never after it was replaced or the queue was closed.
 * `wake` may only wake its own loop: it must not block, and what it calls of this library returns `IICP_INVALID_ARG`.
 * NULL removes it.
 *
 * Ownership: `data` stays yours until `drop(data)` is called: once, after the last `wake`, also if this call fails.
 * `drop` may be NULL. Threads: any; `wake` and `drop` are called on any thread, and must not throw or jump out.
 * Errors: `IICP_CLOSED`, `IICP_STALE_ID`, `IICP_FORKED`.
 */
iicp_code iicp_queue_on_wake(iicp_queue queue,
                             void (*wake)(void *data),
                             void *data,
                             void (*drop)(void *data),
                             iicp_error **err);

/**
 * Closes a queue: what would end in it is ended, the nodes that deliver to it leave their directory, its doorbell rings
 * no more. The events that are in it, and those that were promised, can still be taken.
 *
 * Threads: any.
 * Errors: `IICP_STALE_ID`, `IICP_FORKED`.
 */
iicp_code iicp_queue_close(iicp_queue queue,
                           iicp_error **err);

/**
 * Closes a queue and frees it with everything that is in it. Events that were taken stay valid. Nothing (id 0) is fine.
 *
 * Threads: any; a thread that waits in the queue comes back with `IICP_CLOSED`.
 * Errors: `IICP_STALE_ID` if it was freed before; `IICP_FORKED`.
 */
iicp_code iicp_queue_free(iicp_queue queue);

/**
 * Asks an operation to end; its `IICP_EVENT_DONE` says `IICP_CANCELLED`, or how it ended if that came first.
 *
 * Threads: any.
 * Errors: `IICP_STALE_ID` if it has ended; `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_op_cancel(uint64_t op, iicp_error **err);

/* ---- Events ---------------------------------------------------------------------------------------------- */

/**
 * What the event says; 0 of NULL. Skip a kind that you do not know: a later library may add some.
 *
 * Threads: any.
 */
iicp_event_kind iicp_event_kind_of(const iicp_event *event);

/**
 * The operation, or for `IICP_EVENT_TASK` and `IICP_EVENT_TASK_CANCEL` the task, that the event belongs to;
 * 0 of NULL.
 *
 * Threads: any.
 */
uint64_t iicp_event_id(const iicp_event *event);

/**
 * The number that was given when the operation was started, or when serving began; 0 of NULL.
 *
 * Threads: any.
 */
uint64_t iicp_event_tag(const iicp_event *event);

/**
 * The id of what the operation made, else 0: `iicp_node node = { iicp_event_handle(event) };`
 *
 * Threads: any.
 */
uint64_t iicp_event_handle(const iicp_event *event);

/**
 * What is known beside the body, as JSON; the function that started the operation says what is in it. Empty if nothing
 * is known, and of NULL.
 *
 * Ownership: the text lives as long as the event. Threads: any.
 */
iicp_str iicp_event_json(const iicp_event *event);

/**
 * The result, a part of it, or a task's payload. Not followed by a NUL; empty of NULL.
 *
 * Ownership: the bytes live as long as the event. Threads: any.
 */
iicp_bytes iicp_event_body(const iicp_event *event);

/**
 * Why the operation failed; NULL if it did not, and of NULL.
 *
 * Ownership: the error belongs to the event and lives as long; do not free it. Threads: any.
 */
const iicp_error *iicp_event_error(const iicp_event *event);

/**
 * Frees an event and everything that was read from it. NULL is fine.
 *
 * Ownership: takes the event. Threads: any, once.
 */
void iicp_event_free(iicp_event *event);

/* ---- Clients --------------------------------------------------------------------------------------------- */

/**
 * Makes a client. `options_json` are options of a client, empty for the defaults. Nothing is sent yet.
 *
 * Ownership: `*out` is yours, for `iicp_client_close`. Threads: any.
 * Errors: `IICP_CONFIG_INVALID`, `IICP_TIMEOUT_TOO_LARGE`, `IICP_CONFIDENTIALITY_REQUIRED`; `IICP_STALE_ID`,
 * `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_client_new(iicp_runtime runtime, iicp_str options_json, iicp_client *out, iicp_error **err);

/**
 * Asks the directory for nodes. `query_json` is `{"intent": "urn:iicp:intent:...", "limit": 5}` and what else the options
 * of a discovery say. The json of its `IICP_EVENT_DONE` is a list of nodes, best first.
 *
 * Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
 * Errors: `IICP_CONFIG_INVALID`, `IICP_INTENT_INVALID`; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
 * All else comes as the error of the `IICP_EVENT_DONE`.
 */
iicp_code iicp_client_discover(iicp_client client,
                               iicp_queue queue,
                               iicp_str query_json,
                               uint64_t tag,
                               uint64_t *op,
                               iicp_error **err);

/**
 * Submits a task. `task_json` is `{"intent": "urn:iicp:intent:..."}` and what else the options of a task say, `body` is
 * the payload, a JSON text. The body of its `IICP_EVENT_DONE` is the result, the json is `{"task_id", "node_id",
 * "attempts", "traceparent", "timings_ms": {"discover", "select", "connect", "first_byte", "overhead", "total"}, "receipt":
 * {"receipt_version", "selection_profile", "eligible_candidate_count", "selected_node_id_prefix",
 * "dispatch_ticket_id_prefix", "profile_negotiation", "redaction"}, "sealed"}`.
 *
 * If the client was made with `external_ranker`, an `IICP_EVENT_RANK` of the operation comes before; see
 * `iicp_rank_finish`.
 *
 * Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
 * Errors: 2xxx for the options and the payload; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else
 * comes as the error of the `IICP_EVENT_DONE`.
 */
iicp_code iicp_client_submit(iicp_client client,
                             iicp_queue queue,
                             iicp_str task_json,
                             iicp_bytes body,
                             uint64_t tag,
                             uint64_t *op,
                             iicp_error **err);

/**
 * Chats. `chat_json` is `{"messages": [{"role": "user", "content": "Hello"}]}` and what else the options of a chat say.
 * The json of its `IICP_EVENT_DONE` is that of `iicp_client_submit` with `text`, `tool_calls`, `finish_reason`, `usage`
 * and `model` besides, the body is the provider's whole reply.
 *
 * Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
 * Errors: 2xxx for the options; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else comes as the
 * error of the `IICP_EVENT_DONE`.
 */
iicp_code iicp_client_chat(iicp_client client,
                           iicp_queue queue,
                           iicp_str chat_json,
                           uint64_t tag,
                           uint64_t *op,
                           iicp_error **err);

/**
 * Submits a task whose result comes in parts, as the provider makes them. With a body, `ask_json` and `body` are those of
 * `iicp_client_submit`; with an empty one, `ask_json` is that of `iicp_client_chat`.
 *
 * Every part is an `IICP_EVENT_CHUNK`: its body is the part, its json `{"sequence", "text", "tokens_used", "task_id",
 * "node_id"}`, with the count from 0, what a chat says next, and the tokens so far, null if the provider does not count. The
 * json of the `IICP_EVENT_DONE` is that of `iicp_client_submit` with `finish_reason`, `usage`, `model` and `tokens_used`
 * besides, its body is empty. A provider that does not stream gives its whole result as one part.
 *
 * A part counts until its event is freed: with a megabyte of them the provider waits. `iicp_op_cancel` stops the
 * provider's handler. A failure in the middle is the error of the `IICP_EVENT_DONE`.
 *
 * Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
 * Errors: 2xxx for the options and the payload; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else
 * comes as the error of the `IICP_EVENT_DONE`.
 */
iicp_code iicp_client_stream(iicp_client client,
                             iicp_queue queue,
                             iicp_str ask_json,
                             iicp_bytes body,
                             uint64_t tag,
                             uint64_t *op,
                             iicp_error **err);

/**
 * Runs a model task of a well-known intent. `ask_json` are the options of a completion, an embedding, a transcription, a
 * speech or a moderation, as `kind` says. Of a transcription `body` is the sound file, else it is empty. The json of its
 * `IICP_EVENT_DONE` is that of `iicp_client_submit` with, besides:
 *
 * - a completion: `text`, `finish_reason`, `usage`, `model`;
 * - an embedding: `vectors`, `usage`, `model`;
 * - a transcription: `text`, `language`;
 * - a speech: `content_type`, `format`, and the body is the sound file;
 * - a moderation: `results`, each `{"flagged", "categories", "category_scores"}`, `model`.
 *
 * But for a speech, the body is the provider's whole reply.
 *
 * Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
 * Errors: 2xxx for the options; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else comes as the
 * error of the `IICP_EVENT_DONE`.
 */
iicp_code iicp_client_infer(iicp_client client,
                            iicp_queue queue,
                            iicp_inference kind,
                            iicp_str ask_json,
                            iicp_bytes body,
                            uint64_t tag,
                            uint64_t *op,
                            iicp_error **err);

/**
 * Answers an `IICP_EVENT_RANK`, whose id is the operation `op` and whose json is `{"request_ref", "intent", "candidates":
 * [{"candidate_ref", "models", "directory_score", "load", ...}]}`, in the order in which they would be asked.
 *
 * `choice_json` is `{"candidate_ref", "policy_id", "mode"}` to have this candidate asked first, with the mode `"normal"`
 * or `"exploration"`; empty or `null` to keep the order; `{"error": "why"}` to refuse the task, which then ends with
 * `IICP_RANKER_REFUSED`. Nothing is sent before the answer; the task's own deadline is that of the answer, too.
 *
 * Ownership: arguments are copied. Threads: any. Never blocks.
 * Errors: `IICP_STALE_ID` if the operation does not ask, or no longer. `IICP_INVALID_ARG` if the answer is none of these:
 * the task is refused then. `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_rank_finish(uint64_t op,
                           iicp_str choice_json,
                           iicp_error **err);

/**
 * Closes a client: what it is doing ends with `IICP_CLOSED`. Nothing (id 0) is fine.
 *
 * Threads: any.
 * Errors: `IICP_STALE_ID` if it was closed before; `IICP_CLOSED` after shutdown, `IICP_FORKED`.
 */
iicp_code iicp_client_close(iicp_client client);

/* ---- Clients that wait ----------------------------------------------------------------------------------- */

/**
 * `iicp_client_discover`, and waits for its `IICP_EVENT_DONE`. The operation's own deadline is that of the wait.
 *
 * Ownership: `*out` is yours, for `iicp_event_free`; it never has an error. Threads: any, but not inside a doorbell.
 * Errors: those of the verb and of its `IICP_EVENT_DONE`.
 */
iicp_code iicp_client_discover_wait(iicp_client client,
                                    iicp_str query_json,
                                    iicp_event **out,
                                    iicp_error **err);

/**
 * `iicp_client_submit`, and waits for its `IICP_EVENT_DONE`. The task's own deadline is that of the wait.
 *
 * Ownership: `*out` is yours, for `iicp_event_free`; it never has an error. Threads: any, but not inside a doorbell.
 * Errors: those of the verb and of its `IICP_EVENT_DONE`.
 */
iicp_code iicp_client_submit_wait(iicp_client client,
                                  iicp_str task_json,
                                  iicp_bytes body,
                                  iicp_event **out,
                                  iicp_error **err);

/**
 * `iicp_client_chat`, and waits for its `IICP_EVENT_DONE`. The chat's own deadline is that of the wait.
 *
 * Ownership: `*out` is yours, for `iicp_event_free`; it never has an error. Threads: any, but not inside a doorbell.
 * Errors: those of the verb and of its `IICP_EVENT_DONE`.
 */
iicp_code iicp_client_chat_wait(iicp_client client,
                                iicp_str chat_json,
                                iicp_event **out,
                                iicp_error **err);

/**
 * `iicp_client_infer`, and waits for its `IICP_EVENT_DONE`. The task's own deadline is that of the wait.
 *
 * Ownership: `*out` is yours, for `iicp_event_free`; it never has an error. Threads: any, but not inside a doorbell.
 * Errors: those of the verb and of its `IICP_EVENT_DONE`.
 */
iicp_code iicp_client_infer_wait(iicp_client client,
                                 iicp_inference kind,
                                 iicp_str ask_json,
                                 iicp_bytes body,
                                 iicp_event **out,
                                 iicp_error **err);

/* ---- Serving nodes --------------------------------------------------------------------------------------- */

/**
 * Begins to serve. `options_json` are options of a node: at least `{"intents": ["urn:iicp:intent:..."]}`. Its
 * `IICP_EVENT_DONE` comes after the first registration was tried; its handle is the node, its json as that of
 * `iicp_node_status`.
 *
 * A task comes as `IICP_EVENT_TASK` with the same tag on the same queue: its id is the task, its body the payload, its
 * json `{"task_id", "intent", "qos", "deadline_ms", "traceparent", "tracestate", "priority", "model", "max_tokens",
 * "takes_events", "peer",
 * "source_node_id", "verified", "verified_node_id", "node"}`. `model` and `max_tokens` are what the caller wishes outside of
 * the payload, `takes_events` whether it takes the result in parts; `source_node_id` is what it says it is, `verified_node_id` what the directory says it is, and `verified`
 * whether it has shown a good consumer token or this node's own token; what there is not is null. Answer it with
 * `iicp_task_finish` or `iicp_task_fail`, maybe with parts before by `iicp_task_chunk`, on any thread, in any order. `IICP_EVENT_TASK_CANCEL` with the id of a task says
 * that nobody waits for its answer any more. The node never asks for more tasks at once than `max_concurrent`.
 *
 * With the option `backend`, as in `{"backend": {"url": "http://127.0.0.1:8000/v1"}}`, no task comes here: they go to that
 * inference server. Intents and models are the backend's, unless the options name them.
 *
 * Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
 * Errors: `IICP_CONFIG_INVALID`, `IICP_INTENT_INVALID`; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
 * All else, such as `IICP_BIND`, comes as the error of the `IICP_EVENT_DONE`.
 */
iicp_code iicp_node_serve(iicp_queue queue,
                          iicp_str options_json,
                          uint64_t tag,
                          uint64_t *op,
                          iicp_error **err);

/**
 * How a node is. The json of `*out` is `{"node_id", "url", "registered", "active_jobs", "effective_max_concurrent",
 * "models", "backend_state" (`ok`, `degraded` or `draining`), "backend_reason"}`.
 *
 * Ownership: `*out` is yours, for `iicp_event_free`. Threads: any. Never blocks.
 * Errors: `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_node_status(iicp_node node,
                           iicp_event **out,
                           iicp_error **err);

/**
 * How a node can be reached from outside: what was tried, what came back, what to do about it. The json of `*out` is
 * `{"text", "reached_by", "endpoint", "interfaces": [{"name", "address", "public", "temporary", "vpn"}], "gateways",
 * "container", "wan_address", "double_nat", "rungs": [{"rung", "state", "lines", "fix"}], "took_ms", "climbs"}`; its `text`
 * is the same for people.
 *
 * Ownership: `*out` is yours, for `iicp_event_free`. Threads: any. Never blocks.
 * Errors: `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_node_nat_report(iicp_node node,
                               iicp_event **out,
                               iicp_error **err);

/**
 * Closes a node: it leaves its directory and takes no new task; tasks that run have `grace_ms` to be answered. The id is
 * stale at once. The json of its `IICP_EVENT_DONE` is `{"in_time": true}` if all of them were.
 *
 * Ownership: `op` may be NULL. Threads: any. Never blocks.
 * Errors: `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_node_close(iicp_node node,
                          iicp_queue queue,
                          uint32_t grace_ms,
                          uint64_t tag,
                          uint64_t *op,
                          iicp_error **err);

/**
 * Gives the caller of a task a part of the result, a JSON text, and goes on: `iicp_task_finish` or `iicp_task_fail` ends it.
 * A caller who takes no parts gets them put together. `meta_json` is empty or `{"tokens_used": 12}`, as of this part. An
 * empty body says that parts will come.
 *
 * `IICP_QUEUE_FULL` says that a megabyte of parts waits for the caller and that this one was not taken: give it again when
 * an `IICP_EVENT_TASK_ROOM` with the id of the task has come.
 *
 * Ownership: arguments are copied. Threads: any. Never blocks.
 * Errors: `IICP_QUEUE_FULL`; `IICP_STALE_ID` if the task was answered before or needs no answer any more. `IICP_HANDLER` if
 * the part is not JSON and `IICP_CONFIG_INVALID` for `meta_json`: the task is answered as failed then. `IICP_CLOSED`,
 * `IICP_FORKED`.
 */
iicp_code iicp_task_chunk(uint64_t task,
                          iicp_str meta_json,
                          iicp_bytes body,
                          iicp_error **err);

/**
 * Answers a task with a result, a JSON text. `meta_json` is empty or `{"tokens_used": 12}`. After `iicp_task_chunk` it is
 * the end: the body is the last part then, or empty.
 *
 * Ownership: arguments are copied. Threads: any. Never blocks.
 * Errors: `IICP_STALE_ID` if the task was answered before or needs no answer any more. `IICP_HANDLER` if the result is
 * not JSON and `IICP_CONFIG_INVALID` for `meta_json`: the task is answered as failed then. `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_task_finish(uint64_t task,
                           iicp_str meta_json,
                           iicp_bytes body,
                           iicp_error **err);

/**
 * Answers a task with a failure. The caller reads `message` only with `IICP_TASK_REJECTED`, a deliberate refusal; with
 * every other code it learns that the provider failed.
 *
 * Ownership: arguments are copied. Threads: any. Never blocks.
 * Errors: `IICP_STALE_ID` if the task was answered before or needs no answer any more. `IICP_INVALID_ARG` if `code` is
 * none of the list: the task is answered as failed then. `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_task_fail(uint64_t task,
                         iicp_code code,
                         iicp_str message,
                         iicp_error **err);

/* ---- Embedded directories -------------------------------------------------------------------------------- */

/**
 * Starts a directory. `options_json` are options of a directory; `IICP_DIRECTORY_LOOPBACK` are those for development on
 * this machine. The handle of its `IICP_EVENT_DONE` is the directory, its json `{"url": "http://127.0.0.1:..."}`, which
 * nodes and clients take as their option `directory`.
 *
 * Ownership: arguments are copied. `op` may be NULL. Threads: any. Never blocks.
 * Errors: `IICP_CONFIG_INVALID`; `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`. All else, such as
 * `IICP_BIND`, comes as the error of the `IICP_EVENT_DONE`.
 */
iicp_code iicp_directory_bind(iicp_queue queue,
                              iicp_str options_json,
                              uint64_t tag,
                              uint64_t *op,
                              iicp_error **err);

/**
 * Closes a directory; requests that run have `grace_ms` to end. The id is stale at once. The json of its
 * `IICP_EVENT_DONE` is `{"in_time": true}` if all of them did.
 *
 * Ownership: `op` may be NULL. Threads: any. Never blocks.
 * Errors: `IICP_QUEUE_FULL`, `IICP_STALE_ID`, `IICP_CLOSED`, `IICP_FORKED`.
 */
iicp_code iicp_directory_close(iicp_directory directory,
                               iicp_queue queue,
                               uint32_t grace_ms,
                               uint64_t tag,
                               uint64_t *op,
                               iicp_error **err);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* IICP_H */
