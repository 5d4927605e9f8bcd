package iicp_test

import (
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	"iicp.network/go/iicp"
)

// mesh is a directory, a node and a client in one process.
type mesh struct {
	directory *iicp.Directory
	node      *iicp.Node
	client    *iicp.Client
}

func newMesh(t testing.TB, opts iicp.NodeOptions, handler iicp.HandlerFunc) *mesh {
	t.Helper()
	directory := must(iicp.LoopbackDirectory())(t)
	opts.Directory = directory.URL()
	if opts.Intents == nil {
		opts.Intents = []string{iicp.IntentChat}
	}
	node := must(iicp.Serve(context.Background(), opts, handler))(t)
	client := must(iicp.NewClient(iicp.ClientOptions{Directory: directory.URL()}))(t)
	m := &mesh{directory, node, client}
	t.Cleanup(m.close)
	return m
}

func (m *mesh) close() {
	m.client.Close()
	m.node.Close()
	m.directory.Close()
}

func (m *mesh) submit(ctx context.Context, payload string) (*iicp.TaskResult, error) {
	return m.client.Submit(ctx, iicp.Task{Intent: iicp.IntentChat, Payload: json.RawMessage(payload)})
}

// must fails the test if a call did; without a test it panics.
func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		if err != nil && t == nil {
			panic(err)
		}
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
		return value
	}
}

func echo(_ context.Context, task *iicp.Inbound) (iicp.Reply, error) {
	return iicp.Reply{Result: task.Payload}, nil
}

// hang returns when nobody waits any more.
func hang(ctx context.Context, _ *iicp.Inbound) (iicp.Reply, error) {
	<-ctx.Done()
	return iicp.Reply{}, ctx.Err()
}

// eventually waits until something is so; what waits for other threads cannot be told when.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("30 s later it still is not so: %s", what)
		}
	}
}

// ours counts the goroutines that run code of the package.
func ours() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	count := 0
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(stack, "iicp.network/go/iicp.") {
			count++
		}
	}
	return count
}
