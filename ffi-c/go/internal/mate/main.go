// Command mate is the Go half of a pair: a node and a client, told by lines of JSON what to do.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"iicp.network/go/iicp"
)

// object is a line of JSON that the mate says.
type object = map[string]any

// command is a line that the mate is told.
type command struct {
	ID        uint64          `json:"id"`
	Intent    string          `json:"intent"`
	Payload   json.RawMessage `json:"payload"`
	TimeoutMs int64           `json:"timeout_ms"`
	Cancel    uint64          `json:"cancel"`
	Status    bool            `json:"status"`
	Take      int             `json:"take"`
}

// seen and cancelled count tasks: those that the handler began, and those whose end it saw coming.
var seen, cancelled atomic.Int64

// serve does what a payload says.
func serve(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
	seen.Add(1)
	var told struct {
		Do    string
		Value json.RawMessage
		Ms    int64
		To    int
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
	case "count":
		return iicp.StreamReply(count(told.To)), nil
	case "drip":
		return iicp.StreamReply(drip(ctx)), nil
	case "wait":
		told.Ms = 60_000
	}
	select {
	case <-time.After(time.Duration(told.Ms) * time.Millisecond):
		return iicp.JSONReply(object{"slept": told.Ms})
	case <-ctx.Done():
		cancelled.Add(1)
		return iicp.Reply{}, ctx.Err()
	}
}

func count(to int) iter.Seq2[iicp.Reply, error] {
	return func(yield func(iicp.Reply, error) bool) {
		for number := range to {
			if !yield(iicp.JSONReply(number)) {
				return
			}
		}
	}
}

func drip(ctx context.Context) iter.Seq2[iicp.Reply, error] {
	return func(yield func(iicp.Reply, error) bool) {
		if yield(iicp.JSONReply(0)) {
			<-ctx.Done()
		}
		cancelled.Add(1)
	}
}

func parts(ctx context.Context, client *iicp.Client, task iicp.Task, most int) (taken []json.RawMessage, err error) {
	for chunk, err := range client.Stream(ctx, task) {
		if err != nil {
			return nil, err
		}
		if taken = append(taken, chunk.Result); len(taken) == most {
			break
		}
	}
	return taken, nil
}

func submit(ctx context.Context, client *iicp.Client, told command) object {
	task := iicp.Task{Intent: told.Intent, Payload: told.Payload, TimeoutMs: told.TimeoutMs}
	var payload any
	var err error
	if told.Take > 0 {
		payload, err = parts(ctx, client, task, told.Take)
	} else {
		var result *iicp.TaskResult
		if result, err = client.Submit(ctx, task); err == nil {
			payload = result.Result
		}
	}
	full := new(iicp.Error)
	switch {
	case !errors.As(err, &full):
		return object{"id": told.ID, "payload": payload}
	case full.WireCode == "":
		return object{"id": told.ID, "error": full.Code.Name(), "wire_code": nil}
	default:
		return object{"id": told.ID, "error": full.Code.Name(), "wire_code": full.WireCode}
	}
}

func main() {
	if len(os.Args) != 3 && len(os.Args) != 4 {
		log.Fatal("usage: mate DIRECTORY_URL INTENT [NODE_OPTIONS]")
	}
	ctx, cancelAll := context.WithCancel(context.Background())
	defer cancelAll()
	// What it is told to do wrong, it need not report.
	iicp.SetLogger(slog.New(slog.DiscardHandler))
	options := iicp.NodeOptions{Directory: os.Args[1], Intents: []string{os.Args[2]}, MaxConcurrent: 2}
	if len(os.Args) == 4 {
		if err := json.Unmarshal([]byte(os.Args[3]), &options); err != nil {
			log.Fatal(err)
		}
	}
	node, err := iicp.Serve(ctx, options, iicp.HandlerFunc(serve))
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()
	client, err := iicp.NewClient(iicp.ClientOptions{Directory: os.Args[1]})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	lines := make(chan object)
	go func() {
		for out := json.NewEncoder(os.Stdout); ; {
			if err := out.Encode(<-lines); err != nil {
				log.Fatal(err)
			}
		}
	}()
	lines <- object{"ready": node.NodeID()}
	running := map[uint64]context.CancelFunc{}
	for in := json.NewDecoder(os.Stdin); ; {
		var told command
		if err := in.Decode(&told); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		if cancel := running[told.Cancel]; cancel != nil {
			cancel()
		} else if told.Status {
			lines <- object{"id": told.ID, "seen": seen.Load(), "cancelled": cancelled.Load()}
		} else if told.Cancel == 0 {
			ctx, cancel := context.WithCancel(ctx)
			running[told.ID] = cancel
			go func() { lines <- submit(ctx, client, told) }()
		}
	}
}
