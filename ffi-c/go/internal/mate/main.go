// Command mate is the Go half of a pair: a node and a client, told by lines of JSON what to do.
//
//	mate DIRECTORY_URL INTENT
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"iicp.network/go/iicp"
)

// object is an answer, one line of JSON.
type object = map[string]any

// command is a line that the mate is told.
type command struct {
	ID        uint64          `json:"id"`
	Intent    string          `json:"intent"`
	Payload   json.RawMessage `json:"payload"`
	TimeoutMs int64           `json:"timeout_ms"`
	Cancel    uint64          `json:"cancel"`
	Status    bool            `json:"status"`
}

// mate has a client, and counts what its handler sees.
type mate struct {
	client          *iicp.Client
	seen, cancelled atomic.Int64

	mu      sync.Mutex
	out     *json.Encoder
	running map[uint64]context.CancelFunc
}

func (m *mate) say(line object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// Who no longer listens has closed our input as well.
	_ = m.out.Encode(line)
}

// ServeTask does what the payload says.
func (m *mate) ServeTask(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
	m.seen.Add(1)
	var told struct {
		Do    string
		Value json.RawMessage
		Ms    int64
	}
	if err := json.Unmarshal(task.Payload, &told); err != nil {
		return iicp.Reply{}, err
	}
	switch told.Do {
	case "echo":
		return iicp.JSONReply(object{"echo": told.Value})
	case "fail":
		return iicp.Reply{}, iicp.Reject("the piano is out of tune")
	case "throw":
		panic("as told")
	case "slow":
		return m.sleep(ctx, time.Duration(told.Ms)*time.Millisecond, object{"slept": told.Ms})
	case "wait":
		return m.sleep(ctx, time.Minute, object{"waited": "in vain"})
	}
	return iicp.Reply{}, iicp.Reject("nobody told what to do")
}

func (m *mate) sleep(ctx context.Context, long time.Duration, then object) (iicp.Reply, error) {
	select {
	case <-time.After(long):
		return iicp.JSONReply(then)
	case <-ctx.Done():
		m.cancelled.Add(1)
		return iicp.Reply{}, ctx.Err()
	}
}

func (m *mate) submit(ctx context.Context, told command) {
	task := iicp.Task{Intent: told.Intent, Payload: told.Payload, TimeoutMs: told.TimeoutMs}
	result, err := m.client.Submit(ctx, task)
	if full := new(iicp.Error); errors.As(err, &full) {
		answer := object{"id": told.ID, "error": full.Code.Name(), "wire_code": nil}
		if full.WireCode != "" {
			answer["wire_code"] = full.WireCode
		}
		m.say(answer)
		return
	}
	m.say(object{"id": told.ID, "payload": result.Result})
}

// obey does what a line says; a submit does not hold up the next line.
func (m *mate) obey(ctx context.Context, told command) {
	switch {
	case told.Cancel != 0:
		if cancel := m.running[told.Cancel]; cancel != nil {
			cancel()
		}
	case told.Status:
		m.say(object{"id": told.ID, "seen": m.seen.Load(), "cancelled": m.cancelled.Load()})
	default:
		ctx, cancel := context.WithCancel(ctx)
		m.running[told.ID] = cancel
		go m.submit(ctx, told)
	}
}

func run(directory, intent string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// What it is told to do wrong, it need not report.
	iicp.SetLogger(slog.New(slog.DiscardHandler))
	m := &mate{out: json.NewEncoder(os.Stdout), running: map[uint64]context.CancelFunc{}}
	options := iicp.NodeOptions{Intents: []string{intent}, Directory: directory, MaxConcurrent: 2}
	node, err := iicp.Serve(ctx, options, m)
	if err != nil {
		return err
	}
	defer node.Close()
	if m.client, err = iicp.NewClient(iicp.ClientOptions{Directory: directory}); err != nil {
		return err
	}
	defer m.client.Close()
	m.say(object{"ready": node.NodeID()})
	for lines := json.NewDecoder(os.Stdin); ; {
		var told command
		if err := lines.Decode(&told); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		m.obey(ctx, told)
	}
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: mate DIRECTORY_URL INTENT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "mate:", err)
		os.Exit(1)
	}
}
