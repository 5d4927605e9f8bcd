package iicp_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"iicp.network/go/iicp"
)

func TestATaskIsAnsweredWithWhatTheHandlerReturns(t *testing.T) {
	seen := make(chan *iicp.Inbound, 1)
	m := newMesh(t, iicp.NodeOptions{}, func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		seen <- task
		return iicp.Reply{Result: task.Payload, TokensUsed: 3}, nil
	})
	result := must(m.submit(t.Context(), `{"say":"ä"}`))(t)
	if string(result.Result) != `{"say":"ä"}` || result.NodeID != m.node.NodeID() || result.Attempts != 1 {
		t.Errorf("got %+v", result)
	}
	if took := result.Timings; took.Total <= 0 || took.FirstByte <= 0 || took.Discover <= 0 || took.FirstByte > took.Total {
		t.Errorf("got %+v", took)
	}
	if result.TaskID == "" || result.Traceparent == "" || !result.Sealed {
		t.Errorf("got %+v", result)
	}
	if got := result.Receipt; got.ReceiptVersion != "iicp-routing-receipt-v1" || got.EligibleCandidateCount != 1 ||
		!strings.HasPrefix(result.NodeID, got.SelectedNodeIDPrefix) || got.SelectionProfile == "" || got.Redaction == "" {
		t.Errorf("got %+v", got)
	}
	task := <-seen
	if task.TaskID != result.TaskID || task.Intent != iicp.IntentChat || time.Until(task.Deadline) < time.Second {
		t.Errorf("the handler got %+v", task)
	}
	if text := slog.AnyValue(task).Resolve().String(); strings.Contains(text, "say") {
		t.Errorf("a log shows the payload: %s", text)
	}
}

func TestDiscoverAndChat(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{Models: []string{"small"}}, func(context.Context, *iicp.Inbound) (iicp.Reply, error) {
		return iicp.ChatText("Hello from Go!")
	})
	nodes := must(m.client.Discover(t.Context(), iicp.Discover{Intent: iicp.IntentChat, Limit: 5}))(t)
	if len(nodes) != 1 || nodes[0].NodeID != m.node.NodeID() || nodes[0].Models[0] != "small" {
		t.Errorf("got %+v", nodes)
	}
	reply := must(m.client.Chat(t.Context(), iicp.UserChat("Hello, mesh.")))(t)
	if reply.Text != "Hello from Go!" || reply.NodeID != m.node.NodeID() || !json.Valid(reply.Result) {
		t.Errorf("got %+v", reply)
	}
	status := must(m.node.Status())(t)
	if report := must(m.node.NatReport())(t); report.ReachedBy != "" || report.Text == "" {
		t.Error(report)
	}
	if !status.Registered || status.URL != m.node.URL() || status.ActiveJobs != 0 || status.EffectiveMaxConcurrent == 0 ||
		len(status.Models) != 1 || status.BackendState != "ok" || status.BackendReason != "ok" {
		t.Errorf("got %+v", status)
	}
}

func TestAContextThatEndsCancelsAtTheFarEnd(t *testing.T) {
	running, gone := make(chan struct{}), make(chan struct{})
	m := newMesh(t, iicp.NodeOptions{}, func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		close(running)
		<-ctx.Done()
		close(gone)
		return iicp.Reply{}, ctx.Err()
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user went home")
	go func() { <-running; cancel(why) }()
	_, err := m.submit(ctx, `{}`)
	if !errors.Is(err, iicp.ErrCancelled) || !errors.Is(err, context.Canceled) || !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	<-gone
	if _, err = m.submit(ctx, `{}`); !errors.Is(err, iicp.ErrCancelled) {
		t.Errorf("a context that has ended: got %v", err)
	}
}

func TestAContextThatRunsOutIsATimeout(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{}, hang)
	for _, left := range []time.Duration{time.Nanosecond, 50 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), left)
		defer cancel()
		_, err := m.submit(ctx, `{}`)
		if !errors.Is(err, iicp.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, iicp.ErrCancelled) {
			t.Errorf("got %v", err)
		}
	}
}

func TestWhatAHandlerDoesWrongCostsItsTaskOnly(t *testing.T) {
	if !alone(t) {
		return
	}
	var logged strings.Builder
	var mu sync.Mutex
	iicp.SetLogger(slog.New(slog.NewTextHandler(&locked{&mu, &logged}, nil)))
	defer iicp.SetLogger(nil)
	var m *mesh
	ready := make(chan struct{})
	m = newMesh(t, iicp.NodeOptions{MaxConcurrent: 1}, func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		<-ready
		var told struct{ Do string }
		if err := json.Unmarshal(task.Payload, &told); err != nil {
			return iicp.Reply{}, err
		}
		switch told.Do {
		case "panic":
			panic("private canary")
		case "fail":
			return iicp.Reply{}, errors.New("private canary")
		case "reject":
			return iicp.Reply{}, iicp.Reject("come back tomorrow")
		case "nothing":
			return iicp.Reply{}, nil
		case "no json":
			return iicp.Reply{Result: json.RawMessage("{]")}, nil
		case "hang":
			return hang(ctx, task)
		case "submit":
			_, err := m.client.Discover(ctx, iicp.Discover{Intent: iicp.IntentChat})
			return iicp.Reply{Result: task.Payload}, err
		}
		return iicp.Reply{Result: task.Payload}, nil
	})
	close(ready)
	for _, c := range []struct {
		do   string
		code iicp.Code
	}{
		{"panic", iicp.ErrBackend}, {"fail", iicp.ErrBackend}, {"reject", iicp.ErrTaskRejected},
		{"nothing", iicp.ErrBackend}, {"no json", iicp.ErrBackend}, {"submit", 0}, {"echo", 0},
	} {
		_, err := m.submit(t.Context(), `{"do":"`+c.do+`"}`)
		if c.code == 0 && err != nil || c.code != 0 && !errors.Is(err, c.code) {
			t.Errorf("%s: got %v", c.do, err)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the caller reads what is private: %v", c.do, err)
		}
		if c.do == "reject" && !strings.Contains(err.Error(), "come back tomorrow") {
			t.Errorf("the caller does not read the refusal: %v", err)
		}
	}
	_, err := m.client.Submit(t.Context(), iicp.Task{Intent: iicp.IntentChat, TimeoutMs: 300, Payload: []byte(`{"do":"hang"}`)})
	if !errors.Is(err, iicp.ErrTimeout) && !errors.Is(err, iicp.ErrTaskTimeout) {
		t.Errorf("a handler that hangs until its deadline: %v", err)
	}
	must(m.submit(t.Context(), `{"do":"echo"}`))(t)
	mu.Lock()
	defer mu.Unlock()
	if text := logged.String(); strings.Count(text, "a handler failed") != 2 || !strings.Contains(text, "the handler panicked") ||
		strings.Count(text, "reply was refused") != 2 || strings.Contains(text, "tomorrow") {
		t.Errorf("the log says %s", text)
	}
}

// locked is a writer for several goroutines.
type locked struct {
	mu *sync.Mutex
	to *strings.Builder
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

func TestShutdownWaitsForHandlersAndCloseDoesNot(t *testing.T) {
	running, let := make(chan struct{}), make(chan struct{})
	m := newMesh(t, iicp.NodeOptions{}, func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		running <- struct{}{}
		select {
		case <-let:
		case <-ctx.Done():
		}
		return iicp.Reply{Result: task.Payload}, ctx.Err()
	})
	answers := make(chan error, 1)
	ask := func() { _, err := m.submit(context.Background(), `{}`); answers <- err }
	go ask()
	<-running
	go func() { let <- struct{}{} }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := m.node.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-answers; err != nil {
		t.Errorf("a task that ran when shutdown began: %v", err)
	}

	m = newMesh(t, iicp.NodeOptions{}, func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		running <- struct{}{}
		return hang(ctx, task)
	})
	go ask()
	<-running
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.node.Shutdown(soon); !errors.Is(err, iicp.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a handler still ran: got %v", err)
	}
	if err := <-answers; err == nil {
		t.Error("a task that was withdrawn succeeded")
	}
}

func TestCloseLeavesTheDirectoryAndHastensAShutdown(t *testing.T) {
	running := make(chan struct{})
	m := newMesh(t, iicp.NodeOptions{}, func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		close(running)
		return hang(ctx, task)
	})
	go m.submit(context.Background(), `{}`)
	<-running
	shut := make(chan error, 1)
	go func() { shut <- m.node.Shutdown(context.Background()) }()
	if err := m.node.Close(); err != nil {
		t.Error(err)
	}
	if err := <-shut; err != nil && !errors.Is(err, iicp.ErrCancelled) {
		t.Error(err)
	}
	if nodes := must(m.client.Discover(t.Context(), iicp.Discover{Intent: iicp.IntentChat}))(t); len(nodes) != 0 {
		t.Errorf("the directory still shows %+v", nodes)
	}
}

func TestANodeClosesWithItsContext(t *testing.T) {
	directory := must(iicp.LoopbackDirectory())(t)
	defer directory.Close()
	ctx, cancel := context.WithCancel(t.Context())
	node := must(iicp.Serve(ctx, iicp.NodeOptions{Intents: []string{iicp.IntentChat}, Directory: directory.URL()}, iicp.HandlerFunc(hang)))(t)
	cancel()
	eventually(t, "the node is closed", func() bool { _, err := node.Status(); return errors.Is(err, iicp.ErrClosed) })
	if err := node.Close(); err != nil {
		t.Error(err)
	}
}

func TestCallsAfterCloseAreACode(t *testing.T) {
	if !alone(t) {
		return
	}
	m := newMesh(t, iicp.NodeOptions{}, hang)
	pending := make(chan error, 1)
	go func() { _, err := m.submit(context.Background(), `{}`); pending <- err }()
	eventually(t, "the task runs", func() bool { return must(m.node.Status())(t).ActiveJobs == 1 })
	m.client.Close()
	if err := <-pending; !errors.Is(err, iicp.ErrClosed) {
		t.Errorf("an operation of a client that was closed: %v", err)
	}
	_, submitted := m.submit(t.Context(), `{}`)
	_, chatted := m.client.Chat(t.Context(), iicp.UserChat("x"))
	_, discovered := m.client.Discover(t.Context(), iicp.Discover{Intent: iicp.IntentChat})
	m.node.Close()
	_, status := m.node.Status()
	for _, err := range []error{submitted, chatted, discovered, status} {
		wrong(t, err, iicp.ErrClosed, "closed")
	}
	m.directory.Close()
	for _, err := range []error{m.client.Close(), m.node.Close(), m.node.Shutdown(t.Context()), m.directory.Close()} {
		if err != nil {
			t.Errorf("closed twice: %v", err)
		}
	}
}

func TestAHugeAnswerIsAnsweredOrRefused(t *testing.T) {
	if !alone(t) {
		return
	}
	m := newMesh(t, iicp.NodeOptions{}, func(_ context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		var bytes int
		if err := json.Unmarshal(task.Payload, &bytes); err != nil {
			return iicp.Reply{}, err
		}
		return iicp.JSONReply(strings.Repeat("x", bytes))
	})
	if result := must(m.submit(t.Context(), "10000000"))(t); len(result.Result) != 10_000_002 {
		t.Errorf("got %d bytes", len(result.Result))
	}
	_, err := m.submit(t.Context(), "100000000")
	wrong(t, err, iicp.ErrResponseTooLarge, "over MaxResponseBytes")
	must(m.submit(t.Context(), "1"))(t)
}

func TestOptionsThatAreZeroCanBeGiven(t *testing.T) {
	if _, err := iicp.NewClient(iicp.ClientOptions{RouteTTLMs: iicp.Ptr[int64](0)}); err != nil {
		t.Error(err)
	}
	m := newMesh(t, iicp.NodeOptions{ResultBytes: iicp.Ptr[int64](0)}, func(_ context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		return iicp.ChatText(string(task.Payload))
	})
	chat := iicp.UserChat("x")
	chat.Temperature = iicp.Ptr(0.0)
	reply := must(m.client.Chat(t.Context(), chat))(t)
	if !strings.Contains(reply.Text, `"temperature":0`) {
		t.Errorf("the handler got %s", reply.Text)
	}
	chat.Temperature = iicp.Ptr(2.5)
	if _, err := m.client.Chat(t.Context(), chat); !errors.Is(err, iicp.ErrConfigInvalid) {
		t.Errorf("got %v", err)
	}
}
