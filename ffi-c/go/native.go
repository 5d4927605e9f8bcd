package iicp

/*
#include <iicp.h>

// What a call gave. Returned by value, so that C is never given an address of Go.
typedef struct {
	iicp_code code;
	iicp_error *err;
	uint64_t id;
} result;

typedef struct {
	iicp_code code;
	int32_t retryable, http_status;
	int64_t retry_after_ms;
	iicp_str message, wire_code;
} failure;

// An event and all that it shows.
typedef struct {
	iicp_event *event;
	iicp_event_kind kind;
	uint64_t id, tag, handle;
	iicp_str json;
	iicp_bytes body;
	const iicp_error *error;
} shown;

enum { MOST = 64 };

typedef struct {
	iicp_code code;
	size_t count;
	iicp_event *events[MOST];
	shown shown[MOST];
} batch;

static iicp_str str(_GoString_ text) {
	iicp_str view = {_GoStringPtr(text), _GoStringLen(text)};
	return view;
}

static failure describe(const iicp_error *err) {
	failure f = {iicp_error_code(err), iicp_error_retryable(err), iicp_error_http_status(err),
		iicp_error_retry_after_ms(err), iicp_error_message_in(err, IICP_SPELLING_PASCAL), iicp_error_wire_code(err)};
	return f;
}

static result runtime_new(void) {
	result r = {0};
	iicp_runtime out = {0};
	r.code = iicp_runtime_new(IICP_ABI_VERSION, iicp_text(NULL), &out, &r.err);
	r.id = out.id;
	return r;
}

static result queue_new(uint64_t runtime) {
	result r = {0};
	iicp_queue out = {0};
	r.code = iicp_queue_new((iicp_runtime){runtime}, iicp_text(NULL), &out, &r.err);
	r.id = out.id;
	return r;
}

static void queue_close(uint64_t queue) { iicp_queue_close((iicp_queue){queue}, NULL); }
static void queue_free(uint64_t queue) { iicp_queue_free((iicp_queue){queue}); }

static shown show(iicp_event *e) {
	shown s = {e, iicp_event_kind_of(e), iicp_event_id(e), iicp_event_tag(e), iicp_event_handle(e),
		iicp_event_json(e), iicp_event_body(e), iicp_event_error(e)};
	return s;
}

static iicp_code queue_fd(uint64_t queue, int32_t *fd) { return iicp_queue_fd((iicp_queue){queue}, fd, NULL); }

// Takes the events that are there.
static void take(uint64_t queue, batch *b) {
	b->count = 0;
	b->code = iicp_queue_drain((iicp_queue){queue}, b->events, MOST, &b->count, NULL);
	for (size_t i = 0; i < b->count; i++) b->shown[i] = show(b->events[i]);
}

// Waits for one.
static void await(uint64_t queue, batch *b) {
	b->count = 0;
	b->code = iicp_queue_next((iicp_queue){queue}, -1, &b->events[0], NULL);
	if (b->code != IICP_OK) return;
	b->count = 1;
	b->shown[0] = show(b->events[0]);
}

static void give_back(batch *b) {
	for (size_t i = 0; i < b->count; i++) iicp_event_free(b->events[i]);
}

static result client_new(uint64_t runtime, _GoString_ options) {
	result r = {0};
	iicp_client out = {0};
	r.code = iicp_client_new((iicp_runtime){runtime}, str(options), &out, &r.err);
	r.id = out.id;
	return r;
}

static void client_close(uint64_t client) { iicp_client_close((iicp_client){client}); }

static result discover(uint64_t client, uint64_t queue, _GoString_ query, uint64_t tag) {
	result r = {0};
	r.code = iicp_client_discover((iicp_client){client}, (iicp_queue){queue}, str(query), tag, &r.id, &r.err);
	return r;
}

static result submit(uint64_t client, uint64_t queue, _GoString_ task, const uint8_t *body, size_t len, uint64_t tag) {
	result r = {0};
	iicp_bytes view = {body, len};
	r.code = iicp_client_submit((iicp_client){client}, (iicp_queue){queue}, str(task), view, tag, &r.id, &r.err);
	return r;
}

static result chat(uint64_t client, uint64_t queue, _GoString_ chat, uint64_t tag) {
	result r = {0};
	r.code = iicp_client_chat((iicp_client){client}, (iicp_queue){queue}, str(chat), tag, &r.id, &r.err);
	return r;
}

static result stream(uint64_t client, uint64_t queue, _GoString_ ask, const uint8_t *body, size_t len, uint64_t tag) {
	result r = {0};
	iicp_bytes view = {body, len};
	r.code = iicp_client_stream((iicp_client){client}, (iicp_queue){queue}, str(ask), view, tag, &r.id, &r.err);
	return r;
}

static result infer(uint64_t client, uint64_t queue, iicp_inference kind, _GoString_ ask, const uint8_t *body, size_t len,
	uint64_t tag) {
	result r = {0};
	iicp_bytes view = {body, len};
	r.code = iicp_client_infer((iicp_client){client}, (iicp_queue){queue}, kind, str(ask), view, tag, &r.id, &r.err);
	return r;
}

static result rank_finish(uint64_t op, _GoString_ choice) {
	result r = {0};
	r.code = iicp_rank_finish(op, str(choice), &r.err);
	return r;
}

static result serve(uint64_t queue, _GoString_ options, uint64_t tag) {
	result r = {0};
	r.code = iicp_node_serve((iicp_queue){queue}, str(options), tag, &r.id, &r.err);
	return r;
}

static shown node_status(uint64_t node, result *r) {
	iicp_event *event = NULL;
	r->code = iicp_node_status((iicp_node){node}, &event, &r->err);
	return show(event);
}

static shown node_nat_report(uint64_t node, result *r) {
	iicp_event *event = NULL;
	r->code = iicp_node_nat_report((iicp_node){node}, &event, &r->err);
	return show(event);
}

static result node_close(uint64_t node, uint64_t queue, uint64_t tag) {
	result r = {0};
	// Who has no time left cancels.
	r.code = iicp_node_close((iicp_node){node}, (iicp_queue){queue}, UINT32_MAX, tag, &r.id, &r.err);
	return r;
}

static result task_chunk(uint64_t task, _GoString_ meta, const uint8_t *body, size_t len) {
	result r = {0};
	iicp_bytes view = {body, len};
	r.code = iicp_task_chunk(task, str(meta), view, &r.err);
	return r;
}

static result task_finish(uint64_t task, _GoString_ meta, const uint8_t *body, size_t len) {
	result r = {0};
	iicp_bytes view = {body, len};
	r.code = iicp_task_finish(task, str(meta), view, &r.err);
	return r;
}

static result task_fail(uint64_t task, iicp_code code, _GoString_ message) {
	result r = {0};
	r.code = iicp_task_fail(task, code, str(message), &r.err);
	return r;
}

static result directory_bind(uint64_t queue, _GoString_ options, uint64_t tag) {
	result r = {0};
	r.code = iicp_directory_bind((iicp_queue){queue}, str(options), tag, &r.id, &r.err);
	return r;
}

static result directory_close(uint64_t directory, uint64_t queue, uint64_t tag) {
	result r = {0};
	r.code = iicp_directory_close((iicp_directory){directory}, (iicp_queue){queue}, UINT32_MAX, tag, &r.id, &r.err);
	return r;
}

static void op_cancel(uint64_t op) { iicp_op_cancel(op, NULL); }
*/
import "C"

import (
	"strconv"
	"strings"
	"time"
	"unsafe"
)

// kind is what an event says.
type kind int32

const (
	eventDone       kind = C.IICP_EVENT_DONE
	eventChunk      kind = C.IICP_EVENT_CHUNK
	eventTask       kind = C.IICP_EVENT_TASK
	eventTaskCancel kind = C.IICP_EVENT_TASK_CANCEL
	eventRank       kind = C.IICP_EVENT_RANK
	eventTaskRoom   kind = C.IICP_EVENT_TASK_ROOM
)

// inference is which model task runs.
type inference int32

const (
	completion    inference = C.IICP_INFERENCE_COMPLETION
	embedding     inference = C.IICP_INFERENCE_EMBEDDING
	transcription inference = C.IICP_INFERENCE_TRANSCRIPTION
	speech        inference = C.IICP_INFERENCE_SPEECH
	moderation    inference = C.IICP_INFERENCE_MODERATION
)

// event is a copy of an event that owns nothing of the library, but for a part of a stream: that counts until letGo.
type event struct {
	kind   kind
	id     uint64
	tag    uint64
	handle uint64
	json   []byte
	body   []byte
	err    *Error
	held   *C.iicp_event
}

// letGo tells the library that a part was used.
func (e *event) letGo() {
	C.iicp_event_free(e.held)
	e.held = nil
}

// started is what a call gave: an id, or why not.
func started(call func() C.result) (uint64, error) {
	r := around(call)
	if r.code == C.IICP_OK {
		return uint64(r.id), nil
	}
	err := copyError(r.err)
	C.iicp_error_free(r.err)
	return 0, err
}

func copyError(from *C.iicp_error) *Error {
	f := C.describe(from)
	return &Error{
		Code:       Code(f.code),
		Message:    string(copyText(f.message)),
		WireCode:   string(copyText(f.wire_code)),
		Retryable:  f.retryable != 0,
		RetryAfter: time.Duration(max(f.retry_after_ms, 0)) * time.Millisecond,
		HTTPStatus: int(f.http_status),
	}
}

func copyText(text C.iicp_str) []byte {
	return copyMemory(unsafe.Pointer(text.ptr), text.len)
}

func copyMemory(from unsafe.Pointer, length C.size_t) []byte {
	if length == 0 {
		return nil
	}
	return append([]byte(nil), unsafe.Slice((*byte)(from), length)...)
}

func copyEvent(from *C.shown) event {
	e := event{
		kind:   kind(from.kind),
		id:     uint64(from.id),
		tag:    uint64(from.tag),
		handle: uint64(from.handle),
		json:   copyText(from.json),
		body:   copyMemory(unsafe.Pointer(from.body.ptr), from.body.len),
	}
	if from.error != nil {
		e.err = copyError((*C.iicp_error)(unsafe.Pointer(from.error)))
	}
	return e
}

// bytesOf is where a body begins, and its length. The caller keeps the body alive during the call.
func bytesOf(body []byte) (*C.uint8_t, C.size_t) {
	return (*C.uint8_t)(unsafe.SliceData(body)), C.size_t(len(body))
}

func runtimeNew() (uint64, error) {
	return started(func() C.result { return C.runtime_new() })
}

func queueNew(runtime uint64) (uint64, error) {
	return started(func() C.result { return C.queue_new(C.uint64_t(runtime)) })
}

func queueClose(queue uint64) { C.queue_close(C.uint64_t(queue)) }

func queueFree(queue uint64) { C.queue_free(C.uint64_t(queue)) }

// queueFD is the descriptor that tells that a queue has events.
func queueFD(queue uint64) (int, bool) {
	var fd C.int32_t
	return int(fd), C.queue_fd(C.uint64_t(queue), &fd) == C.IICP_OK
}

// batch is room for the events that are taken at once.
type batch struct{ c C.batch }

// take takes the events that are there. False when the queue is closed and empty.
func (b *batch) take(queue uint64) bool {
	around(func() struct{} { C.take(C.uint64_t(queue), &b.c); return struct{}{} })
	return b.c.code == C.IICP_OK
}

// await waits for an event in a thread. False when the queue is closed and empty.
func (b *batch) await(queue uint64) bool {
	around(func() struct{} { C.await(C.uint64_t(queue), &b.c); return struct{}{} })
	return b.c.code == C.IICP_OK
}

func (b *batch) len() int { return int(b.c.count) }

// each hands on what was taken, and gives it back to the library before, but for parts of streams.
func (b *batch) each(to func(event)) {
	var events [C.MOST]event
	count := b.len()
	for i := range count {
		events[i] = copyEvent(&b.c.shown[i])
		if events[i].kind == eventChunk {
			events[i].held, b.c.events[i] = b.c.events[i], nil
		}
	}
	C.give_back(&b.c)
	b.c.count = 0
	for i := range count {
		to(events[i])
	}
}

func clientNew(runtime uint64, options string) (uint64, error) {
	return started(func() C.result { return C.client_new(C.uint64_t(runtime), options) })
}

func clientClose(client uint64) { C.client_close(C.uint64_t(client)) }

func discover(client, queue uint64, query string, tag uint64) (uint64, error) {
	return started(func() C.result {
		return C.discover(C.uint64_t(client), C.uint64_t(queue), query, C.uint64_t(tag))
	})
}

func submit(client, queue uint64, task string, body []byte, tag uint64) (uint64, error) {
	return started(func() C.result {
		ptr, length := bytesOf(body)
		return C.submit(C.uint64_t(client), C.uint64_t(queue), task, ptr, length, C.uint64_t(tag))
	})
}

func chat(client, queue uint64, chat string, tag uint64) (uint64, error) {
	return started(func() C.result { return C.chat(C.uint64_t(client), C.uint64_t(queue), chat, C.uint64_t(tag)) })
}

func startStream(client, queue uint64, ask string, body []byte, tag uint64) (uint64, error) {
	return started(func() C.result {
		ptr, length := bytesOf(body)
		return C.stream(C.uint64_t(client), C.uint64_t(queue), ask, ptr, length, C.uint64_t(tag))
	})
}

func startInference(client, queue uint64, kind inference, ask string, body []byte, tag uint64) (uint64, error) {
	return started(func() C.result {
		ptr, length := bytesOf(body)
		return C.infer(C.uint64_t(client), C.uint64_t(queue), C.iicp_inference(kind), ask, ptr, length, C.uint64_t(tag))
	})
}

func rankFinish(op uint64, choice string) error {
	_, err := started(func() C.result { return C.rank_finish(C.uint64_t(op), choice) })
	return err
}

func serve(queue uint64, options string, tag uint64) (uint64, error) {
	return started(func() C.result { return C.serve(C.uint64_t(queue), options, C.uint64_t(tag)) })
}

func nodeStatus(node uint64) ([]byte, error) {
	return told(func(r *C.result) C.shown { return C.node_status(C.uint64_t(node), r) })
}

func nodeNatReport(node uint64) ([]byte, error) {
	return told(func(r *C.result) C.shown { return C.node_nat_report(C.uint64_t(node), r) })
}

func told(ask func(*C.result) C.shown) ([]byte, error) {
	var shown C.shown
	_, err := started(func() (r C.result) { shown = ask(&r); return r })
	if err != nil {
		return nil, err
	}
	defer C.iicp_event_free(shown.event)
	return copyText(shown.json), nil
}

func nodeClose(node, queue, tag uint64) (uint64, error) {
	return started(func() C.result { return C.node_close(C.uint64_t(node), C.uint64_t(queue), C.uint64_t(tag)) })
}

func taskChunk(task uint64, part Reply) error {
	meta := part.meta()
	_, err := started(func() C.result {
		ptr, length := bytesOf(part.Result)
		return C.task_chunk(C.uint64_t(task), meta, ptr, length)
	})
	return err
}

func taskFinish(task uint64, reply Reply) error {
	meta := reply.meta()
	_, err := started(func() C.result {
		ptr, length := bytesOf(reply.Result)
		return C.task_finish(C.uint64_t(task), meta, ptr, length)
	})
	return err
}

// meta is what is said beside a result.
func (r Reply) meta() string {
	if r.TokensUsed == 0 {
		return ""
	}
	return `{"tokens_used":` + strconv.FormatUint(r.TokensUsed, 10) + "}"
}

func taskFail(task uint64, code Code, message string) error {
	message = strings.ToValidUTF8(message, "\ufffd")
	_, err := started(func() C.result { return C.task_fail(C.uint64_t(task), C.iicp_code(code), message) })
	return err
}

func directoryBind(queue uint64, options string, tag uint64) (uint64, error) {
	return started(func() C.result { return C.directory_bind(C.uint64_t(queue), options, C.uint64_t(tag)) })
}

func directoryClose(directory, queue, tag uint64) (uint64, error) {
	return started(func() C.result {
		return C.directory_close(C.uint64_t(directory), C.uint64_t(queue), C.uint64_t(tag))
	})
}

func opCancel(op uint64) { C.op_cancel(C.uint64_t(op)) }

// Version is the version of the library.
func Version() string { return string(copyText(C.iicp_version())) }
