package iicp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Handler serves tasks. It is called on a goroutine of its own for every task, so also several times at once: as often as
// MaxConcurrent says. A task whose context has ended counts no more, even if its handler runs on.
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
	TaskID string
	// Intent is the one of the node's intents that is meant.
	Intent string
	// Qos is one of realtime, interactive, batch, best-effort.
	Qos string
	// Priority is how the task stands among others of its class: critical, high, normal or low.
	Priority string
	// Model is what the caller asked for outside of the payload, or empty.
	Model string
	// MaxTokens is the most tokens of the answer, as the caller asked outside of the payload, or 0.
	MaxTokens int64
	// TakesEvents tells whether the caller takes the result in parts as they are made; for others they are put together.
	TakesEvents bool
	// Traceparent is the caller's W3C trace context, or empty.
	Traceparent string
	// Tracestate is what the systems on the way wrote beside it (W3C tracestate), as it came, or empty.
	Tracestate string
	// Payload is JSON.
	Payload json.RawMessage
	// Deadline is when the answer must be there; also that of the handler's context.
	Deadline time.Time
	// Peer is the address of the caller's connection.
	Peer string
	// SourceNodeID is the node that the caller says it is, or empty. Nothing proves it.
	SourceNodeID string
	// Verified tells whether the caller has shown a good consumer token, or a token of this node.
	Verified bool
	// VerifiedNodeID is the node that the caller is, by the word of the directory that signed its consumer token; or empty.
	VerifiedNodeID string
}

func inbound(e event) *Inbound {
	task := &Inbound{Payload: e.body}
	for name, value := range members(e.json) {
		switch name {
		case "task_id":
			task.TaskID = value.text()
		case "intent":
			task.Intent = value.text()
		case "qos":
			task.Qos = value.text()
		case "priority":
			task.Priority = value.text()
		case "model":
			task.Model = value.text()
		case "max_tokens":
			task.MaxTokens = value.integer()
		case "takes_events":
			task.TakesEvents = value.truth()
		case "traceparent":
			task.Traceparent = value.text()
		case "tracestate":
			task.Tracestate = value.text()
		case "deadline_ms":
			task.Deadline = time.Now().Add(value.milliseconds())
		case "peer":
			task.Peer = value.text()
		case "source_node_id":
			task.SourceNodeID = value.text()
		case "verified":
			task.Verified = value.truth()
		case "verified_node_id":
			task.VerifiedNodeID = value.text()
		}
	}
	return task
}

// LogValue shows the task in a structured log, without its payload.
func (t *Inbound) LogValue() slog.Value {
	return slog.GroupValue(slog.String("task_id", t.TaskID), slog.String("intent", t.Intent), slog.String("peer", t.Peer))
}

// Reply is what a handler returns. If its result is not JSON, the task is answered as failed.
type Reply struct {
	Result json.RawMessage
	// TokensUsed is how many tokens the result took, or 0.
	TokensUsed uint64

	parts iter.Seq2[Reply, error]
}

// JSONReply makes a reply of any value that has a JSON form; of others, such as functions, the error [ErrHandler].
func JSONReply(value any) (Reply, error) {
	result, err := json.Marshal(value)
	if err != nil {
		return Reply{}, &Error{Code: ErrHandler, Message: "the reply has no JSON form: " + err.Error(), cause: err}
	}
	return Reply{Result: result}, nil
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
	// NodeID is the node's id in the directory.
	NodeID string `json:"node_id"`
	// URL is where callers reach the node.
	URL string `json:"url"`
	// Registered tells whether the directory knows the node.
	Registered bool `json:"registered"`
	// ActiveJobs is how many tasks run.
	ActiveJobs int `json:"active_jobs"`
	// EffectiveMaxConcurrent is how many may run now: fewer than MaxConcurrent where Availability says so.
	EffectiveMaxConcurrent int `json:"effective_max_concurrent"`
	// Models are those that the directory knows of.
	Models []string `json:"models"`
	// BackendState is "ok", "degraded" (it works, but slowly or nobody knows how) or "draining" (it takes no tasks).
	BackendState string `json:"backend_state"`
	// BackendReason is why: "ok", "backend_cold", "backend_loading", "backend_unstable" or "observer_error".
	BackendReason string `json:"backend_reason"`
}

// NatReport is how a node can be reached from outside: what was tried, what came back, what to do about it.
type NatReport struct {
	// Text is the same for people.
	Text string `json:"text"`
	// ReachedBy is the rung that the node is reached by; empty if nobody reaches it, or if the ladder was not asked.
	ReachedBy string `json:"reached_by"`
	// Endpoint is the URL that is advertised for it.
	Endpoint string `json:"endpoint"`
	// Interfaces are the addresses of this machine.
	Interfaces []NatInterface `json:"interfaces"`
	// Gateways lead outside.
	Gateways []string `json:"gateways"`
	// Container is by what a container was recognised.
	Container string `json:"container"`
	// WANAddress is what a gateway says it has outside.
	WANAddress string `json:"wan_address"`
	// DoubleNAT tells whether there is another NAT behind the gateway.
	DoubleNAT bool `json:"double_nat"`
	// Rungs are what was tried, in the order of preference.
	Rungs []NatRung `json:"rungs"`
	// TookMS is how long the last climb took, in milliseconds.
	TookMS uint64 `json:"took_ms"`
	// Climbs is how often the ladder was climbed.
	Climbs uint64 `json:"climbs"`
}

// NatInterface is an address of this machine.
type NatInterface struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// Public tells whether it is an address of the open network.
	Public bool `json:"public"`
	// Temporary addresses are replaced by and by.
	Temporary bool `json:"temporary"`
	// VPN tells whether the interface looks like that of a VPN.
	VPN bool `json:"vpn"`
}

// NatRung is what was tried on a rung of the ladder.
type NatRung struct {
	// Rung is which one, such as "upnp" or "relay".
	Rung string `json:"rung"`
	// State is "not_tried", "failed" or "reached".
	State string `json:"state"`
	// Lines are what was done and what came back.
	Lines []string `json:"lines"`
	// Fix is what to do about it, if there is anything.
	Fix string `json:"fix"`
}

// farewell is the time that a node which is closed has to leave its directory, and its handlers to end.
const farewell = time.Second

// Node serves tasks with a handler or a backend. Any number of goroutines may use one.
type Node struct {
	id      uint64
	status  NodeStatus
	queue   *queue
	handler Handler

	// The contexts of the handlers come from base; stop ends it.
	base context.Context
	stop context.CancelFunc

	mu      sync.Mutex
	running map[uint64]context.CancelFunc
	// rooms tell those who answer in parts that they may go on.
	rooms map[uint64]chan struct{}

	once sync.Once
	err  error
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
//
// With the option Backend the handler is nil: the tasks go to that inference server and never come to Go. Intents and
// models are the backend's, unless the options name them.
func Serve(ctx context.Context, opts NodeOptions, handler Handler) (*Node, error) {
	switch {
	case handler == nil && opts.Backend == nil:
		return nil, &Error{Code: ErrNullArg, Message: "the node has nothing that serves; pass a handler, or set Backend"}
	case handler != nil && opts.Backend != nil:
		return nil, &Error{Code: ErrInvalidArg, Message: "the node has both a handler and a backend; with Backend pass nil"}
	}
	text, err := options(struct {
		NodeOptions
		// As itself: who alone may read it is the library.
		NodeHmacKey string `json:"node_hmac_key,omitempty"`
	}{opts, string(opts.NodeHmacKey)})
	if err != nil {
		return nil, err
	}
	n := &Node{handler: handler, running: map[uint64]context.CancelFunc{}, rooms: map[uint64]chan struct{}{}}
	if n.queue, err = newQueue("node", n.onTask); err != nil {
		return nil, err
	}
	n.base, n.stop = context.WithCancel(ctx)
	done, err := n.queue.call(ctx, func(tag uint64) (uint64, error) { return serve(n.queue.id, text, tag) })
	if err == nil {
		err = read(done.json, &n.status)
	}
	if err != nil {
		n.stop()
		n.queue.close()
		return nil, err
	}
	n.id = done.handle
	context.AfterFunc(n.base, func() { _ = n.Close() })
	return n, nil
}

// NodeID is the node's id in the directory.
func (n *Node) NodeID() string { return n.status.NodeID }

// URL is where callers reach the node.
func (n *Node) URL() string { return n.status.URL }

// Status tells how the node is; of a closed one the error is [ErrClosed].
func (n *Node) Status() (NodeStatus, error) {
	text, err := nodeStatus(n.id)
	if errors.Is(err, ErrStaleID) {
		err = closed("node")
	}
	if err != nil {
		return NodeStatus{}, err
	}
	var status NodeStatus
	return status, read(text, &status)
}

// NatReport tells how the node can be reached from outside; of a closed one the error is [ErrClosed].
func (n *Node) NatReport() (NatReport, error) {
	text, err := nodeNatReport(n.id)
	if errors.Is(err, ErrStaleID) {
		err = closed("node")
	}
	if err != nil {
		return NatReport{}, err
	}
	var report NatReport
	return report, read(text, &report)
}

// Close stops the node: it leaves its directory, and the contexts of its handlers end. It takes a second at most, also
// if a handler runs on; a handler may call it. A second call does nothing.
func (n *Node) Close() error {
	n.stop()
	err := n.Shutdown(context.Background())
	if errors.Is(err, ErrCancelled) {
		return nil
	}
	return err
}

// Shutdown stops the node as [Node.Close] does, but lets its handlers end first, until ctx does: then their contexts end,
// and the error is that of ctx, as [ErrTimeout] or [ErrCancelled]. A call that comes later waits for the first one.
func (n *Node) Shutdown(ctx context.Context) error {
	n.once.Do(func() { n.err = n.shut(ctx) })
	return n.err
}

func (n *Node) shut(ctx context.Context) error {
	defer n.queue.close()
	defer n.stop()
	if ctx.Err() != nil {
		// There is no time left, but the node must still leave its directory.
		n.stop()
		ctx = context.WithoutCancel(ctx)
	}
	ctx, hurry := context.WithCancel(ctx)
	defer hurry()
	defer context.AfterFunc(n.base, func() { time.AfterFunc(farewell, hurry) })()
	_, err := n.queue.call(ctx, func(tag uint64) (uint64, error) { return nodeClose(n.id, n.queue.id, tag) })
	return err
}

// onTask runs on the queue's goroutine.
func (n *Node) onTask(e event) {
	switch e.kind {
	case eventTaskCancel:
		n.finished(e.id)
		return
	case eventTaskRoom:
		n.hasRoom(e.id)
		return
	}
	task := inbound(e)
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
	reply, err := n.run(ctx, id, task)
	rejected := rejection("")
	switch {
	case err == nil:
		err = taskFinish(id, reply)
	case errors.As(err, &rejected):
		err = taskFail(id, ErrTaskRejected, string(rejected))
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && n.base.Err() == nil:
		// The library ends the task at its deadline, which is this very moment, and says to the caller that it did.
		return
	default:
		// Of parts that nobody waits for the iterator learns first.
		if ctx.Err() == nil && !errors.Is(err, ErrStaleID) {
			log().Warn("iicp: a handler failed", "task", task, "error", err)
		}
		err = taskFail(id, ErrBackend, "")
	}
	// STALE_ID: nobody waits any more.
	if err != nil && !errors.Is(err, ErrStaleID) && !errors.Is(err, ErrClosed) {
		log().Warn("iicp: a handler's reply was refused", "task", task, "error", err)
		// It was answered as failed, unless it could not even be read.
		_ = taskFail(id, ErrHandler, "")
	}
}

// run calls the handler and contains its panic.
func (n *Node) run(ctx context.Context, id uint64, task *Inbound) (reply Reply, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("the handler panicked: %v\n%s", panicked, debug.Stack())
		}
	}()
	reply, err = n.handler.ServeTask(ctx, task)
	if err != nil || reply.parts == nil {
		return reply, err
	}
	return n.giveAll(ctx, id, reply.parts)
}
