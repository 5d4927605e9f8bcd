package iicp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Handler serves tasks. It is called on a goroutine of its own for every task, at most MaxConcurrent at the same time.
//
// The context ends at the task's deadline, and earlier when nobody waits for the answer any more. An error is answered as
// a failure of the provider, without its text; [Reject] is the exception. A panic is contained.
type Handler interface {
	ServeTask(ctx context.Context, task *Inbound) (Reply, error)
}

// HandlerFunc is a function that serves tasks.
type HandlerFunc func(ctx context.Context, task *Inbound) (Reply, error)

// ServeTask calls the function.
func (f HandlerFunc) ServeTask(ctx context.Context, task *Inbound) (Reply, error) {
	return f(ctx, task)
}

// Inbound is a task as a handler sees it.
type Inbound struct {
	TaskID      string          `json:"task_id"`
	Intent      string          `json:"intent"`
	Qos         string          `json:"qos"`
	Traceparent string          `json:"traceparent"`
	Payload     json.RawMessage `json:"-"`
	// Deadline is when the answer must be there; also that of the handler's context.
	Deadline time.Time `json:"-"`
	// Peer is the address of the caller's connection.
	Peer string `json:"peer"`
	// SourceNodeID is the node that the caller says it is.
	SourceNodeID string `json:"source_node_id"`

	DeadlineMs int64 `json:"deadline_ms"`
}

// LogValue shows the task in a structured log, without its payload.
func (t *Inbound) LogValue() slog.Value {
	return slog.GroupValue(slog.String("task_id", t.TaskID), slog.String("intent", t.Intent), slog.String("peer", t.Peer))
}

// Reply is what a handler returns: a result, which is JSON, and how many tokens it took.
type Reply struct {
	Result     json.RawMessage
	TokensUsed uint64
}

// JSONReply makes a reply of any value that has a JSON form.
func JSONReply(value any) (Reply, error) {
	result, err := json.Marshal(value)
	return Reply{Result: result}, err
}

// ChatText makes the answer to a chat, in the form that chat clients read.
func ChatText(content string) (Reply, error) {
	type choice struct {
		Index        int         `json:"index"`
		Message      ChatMessage `json:"message"`
		FinishReason string      `json:"finish_reason"`
	}
	return JSONReply(map[string]any{
		"choices": []choice{{Message: ChatMessage{Role: "assistant", Content: content}, FinishReason: "stop"}},
	})
}

// NodeStatus is how a node is.
type NodeStatus struct {
	NodeID     string `json:"node_id"`
	URL        string `json:"url"`
	Registered bool   `json:"registered"`
	ActiveJobs int    `json:"active_jobs"`
}

// Node serves tasks with a handler.
type Node struct {
	id      uint64
	status  NodeStatus
	queue   *queue
	handler Handler
	base    context.Context
	forget  func() bool

	mu      sync.Mutex
	running map[uint64]context.CancelFunc

	closing atomic.Bool
	closed  chan struct{}
	err     error
}

var logger atomic.Pointer[slog.Logger]

// SetLogger sets where handlers that fail or panic are reported; by default [slog.Default].
func SetLogger(to *slog.Logger) { logger.Store(to) }

func log() *slog.Logger {
	if to := logger.Load(); to != nil {
		return to
	}
	return slog.Default()
}

// Serve begins to serve, and returns after the first registration was tried. The contexts of the handlers come from ctx,
// and when it ends the node is closed.
func Serve(ctx context.Context, opts NodeOptions, handler Handler) (*Node, error) {
	if handler == nil {
		return nil, &Error{Code: ErrNullArg, Message: "the handler is nil; pass what serves the tasks"}
	}
	text, err := options(opts)
	if err != nil {
		return nil, err
	}
	n := &Node{handler: handler, base: ctx, running: map[uint64]context.CancelFunc{}, closed: make(chan struct{})}
	if n.queue, err = newQueue("node", n.onTask); err != nil {
		return nil, err
	}
	done, err := n.queue.call(ctx, func(tag uint64) (uint64, error) { return serve(n.queue.id, text, tag) })
	if err == nil {
		err = read(done.json, &n.status)
	}
	if err != nil {
		n.queue.close()
		return nil, err
	}
	n.id = done.handle
	n.forget = context.AfterFunc(ctx, func() { _ = n.Close() })
	return n, nil
}

// NodeID is the node's id in the directory.
func (n *Node) NodeID() string { return n.status.NodeID }

// URL is where callers reach the node.
func (n *Node) URL() string { return n.status.URL }

// Status tells how the node is.
func (n *Node) Status() (NodeStatus, error) {
	text, err := nodeStatus(n.id)
	if err != nil {
		return NodeStatus{}, err
	}
	var status NodeStatus
	return status, read(text, &status)
}

// Close stops the node: it leaves its directory, and the handlers that run are told that nobody waits. It does not wait
// for them.
func (n *Node) Close() error { return n.shut(context.Background(), 0) }

// Shutdown lets the node leave its directory and its handlers end, until ctx does.
func (n *Node) Shutdown(ctx context.Context) error {
	grace := time.Duration(1<<63 - 1)
	if deadline, ok := ctx.Deadline(); ok {
		grace = time.Until(deadline)
	}
	return n.shut(ctx, grace)
}

func (n *Node) shut(ctx context.Context, grace time.Duration) error {
	if n.closing.Swap(true) {
		<-n.closed
		return n.err
	}
	defer close(n.closed)
	defer n.queue.close()
	n.forget()
	if ctx.Err() != nil {
		// There is no time left, but the node must still be closed.
		ctx, grace = context.Background(), 0
	}
	// Cancelled, the node stops at once.
	done, err := n.queue.call(ctx, func(tag uint64) (uint64, error) { return nodeClose(n.id, n.queue.id, grace, tag) })
	var ended struct {
		InTime bool `json:"in_time"`
	}
	if err == nil {
		err = read(done.json, &ended)
	}
	if err == nil && grace > 0 && !ended.InTime {
		err = &Error{Code: ErrTimeout, Message: "handlers still ran when the time was over; their tasks were withdrawn"}
	}
	n.err = err
	return err
}

// onTask runs on the queue's goroutine.
func (n *Node) onTask(e event) {
	if e.kind == eventTaskCancel {
		n.finished(e.id)
		return
	}
	task := &Inbound{Payload: e.body}
	if err := read(e.json, task); err != nil {
		_ = taskFail(e.id, ErrInternal, "")
		return
	}
	task.Deadline = time.Now().Add(time.Duration(task.DeadlineMs) * time.Millisecond)
	ctx, cancel := context.WithDeadline(n.base, task.Deadline)
	n.mu.Lock()
	n.running[e.id] = cancel
	n.mu.Unlock()
	go n.answer(ctx, e.id, task)
}

func (n *Node) finished(task uint64) {
	n.mu.Lock()
	cancel := n.running[task]
	delete(n.running, task)
	n.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

func (n *Node) answer(ctx context.Context, id uint64, task *Inbound) {
	defer n.finished(id)
	reply, err := n.run(ctx, task)
	if err == nil {
		meta := ""
		if reply.TokensUsed > 0 {
			meta = fmt.Sprintf(`{"tokens_used":%d}`, reply.TokensUsed)
		}
		err = taskFinish(id, meta, reply.Result)
	} else {
		if !errors.Is(err, ErrTaskRejected) && ctx.Err() == nil {
			log().Warn("iicp: a handler failed", "task", task, "error", err)
		}
		code, message := ErrBackend, ""
		if own := new(Error); errors.As(err, &own) && own.Code == ErrTaskRejected {
			code, message = own.Code, own.Message
		}
		err = taskFail(id, code, message)
	}
	// STALE_ID: nobody waits any more.
	if err != nil && !errors.Is(err, ErrStaleID) && !errors.Is(err, ErrClosed) {
		log().Warn("iicp: a handler's reply was refused", "task", task, "error", err)
	}
}

// run calls the handler and contains its panic.
func (n *Node) run(ctx context.Context, task *Inbound) (reply Reply, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("the handler panicked: %v\n%s", panicked, debug.Stack())
		}
	}()
	return n.handler.ServeTask(ctx, task)
}
