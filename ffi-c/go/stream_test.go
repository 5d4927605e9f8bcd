package iicp_test

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"iicp.network/go/iicp"
)

// replies makes a handler that answers in parts.
func replies(parts func(ctx context.Context, task *iicp.Inbound) iter.Seq2[iicp.Reply, error]) iicp.HandlerFunc {
	return func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		return iicp.StreamReply(parts(ctx, task)), nil
	}
}

// words answers word by word.
func words(_ context.Context, _ *iicp.Inbound) iter.Seq2[iicp.Reply, error] {
	return func(yield func(iicp.Reply, error) bool) {
		for number, word := range []string{"Hello", ", ", "mesh."} {
			part := iicp.Delta(word)
			part.TokensUsed = uint64(number + 1)
			if !yield(part, nil) {
				return
			}
		}
	}
}

func TestPartsArriveInOrderAndTheEndTellsTheRest(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{}, replies(words))
	var end iicp.StreamResult
	var texts []string
	for chunk, err := range m.client.Stream(t.Context(), iicp.UserChat("Hi"), &end) {
		if err != nil {
			t.Fatal(err)
		}
		if int(chunk.Sequence) != len(texts) || chunk.TokensUsed != chunk.Sequence+1 || chunk.NodeID != m.node.NodeID() {
			t.Errorf("part %d: %+v", len(texts), chunk)
		}
		texts = append(texts, chunk.Text)
	}
	if strings.Join(texts, "|") != "Hello|, |mesh." {
		t.Errorf("parts %q", texts)
	}
	if end.TokensUsed != 3 || end.NodeID != m.node.NodeID() || !end.Sealed || end.Attempts != 1 || end.Usage != nil {
		t.Errorf("the end: %+v", end)
	}
	// Who takes no parts gets them put together.
	if reply := must(m.client.Chat(t.Context(), iicp.UserChat("Hi")))(t); reply.Text != "Hello, mesh." {
		t.Errorf("the whole is %q", reply.Text)
	}
}

func TestANodeThatAnswersOnceGivesOnePart(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{}, echo)
	ask := iicp.Task{Intent: iicp.IntentChat, Payload: json.RawMessage(`{"n":1}`)}
	count := 0
	for chunk, err := range m.client.Stream(t.Context(), ask) {
		if err != nil || string(chunk.Result) != `{"n":1}` {
			t.Errorf("%s, %v", chunk.Result, err)
		}
		count++
	}
	if count != 1 {
		t.Errorf("%d parts", count)
	}
}

func TestLeavingTheLoopStopsTheIterator(t *testing.T) {
	stopped := make(chan struct{}, 4)
	m := newMesh(t, iicp.NodeOptions{}, replies(func(context.Context, *iicp.Inbound) iter.Seq2[iicp.Reply, error] {
		return func(yield func(iicp.Reply, error) bool) {
			defer func() { stopped <- struct{}{} }()
			for yield(iicp.Delta("x"), nil) {
			}
		}
	}))
	for range m.client.Stream(t.Context(), iicp.UserChat("Hi")) {
		break
	}
	<-stopped
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var last error
	for _, err := range m.client.Stream(ctx, iicp.UserChat("Hi")) {
		cancel()
		last = err
	}
	if !errors.Is(last, iicp.ErrCancelled) || !errors.Is(last, context.Canceled) {
		t.Errorf("a context that ends gives %v", last)
	}
	<-stopped
	eventually(t, "no task runs", func() bool {
		status, err := m.node.Status()
		return err == nil && status.ActiveJobs == 0
	})
}

func TestASlowLoopSlowsTheIteratorDown(t *testing.T) {
	var made atomic.Int64
	text, _ := json.Marshal(strings.Repeat("x", 50_000))
	handler := replies(func(context.Context, *iicp.Inbound) iter.Seq2[iicp.Reply, error] {
		return func(yield func(iicp.Reply, error) bool) {
			for made.Load() < 400 && yield(iicp.Reply{Result: text}, nil) {
				made.Add(1)
			}
		}
	})
	m := newMesh(t, iicp.NodeOptions{}, handler)
	client := must(iicp.NewClient(iicp.ClientOptions{Directory: m.directory.URL(), MaxResponseBytes: 1 << 28}))(t)
	defer client.Close()
	count := 0
	for _, err := range client.Stream(t.Context(), iicp.UserChat("Hi")) {
		if err != nil {
			t.Fatal(err)
		}
		if count++; count > 1 {
			continue
		}
		for before := int64(-1); before != made.Load(); time.Sleep(300 * time.Millisecond) {
			before = made.Load()
		}
		if made.Load() > 300 {
			t.Errorf("%d parts of 50,000 bytes were made for nobody", made.Load())
		}
	}
	if count != 400 {
		t.Errorf("%d parts", count)
	}
}

func TestAFailureInTheMiddleComesAfterThePartsBeforeIt(t *testing.T) {
	iicp.SetLogger(slog.New(slog.DiscardHandler))
	defer iicp.SetLogger(nil)
	failures := map[string]func(yield func(iicp.Reply, error) bool){
		"reject": func(yield func(iicp.Reply, error) bool) { yield(iicp.Reply{}, iicp.Reject("no more")) },
		"fail":   func(yield func(iicp.Reply, error) bool) { yield(iicp.Reply{}, errors.New("secret")) },
		"panic":  func(func(iicp.Reply, error) bool) { panic("secret") },
		"no json": func(yield func(iicp.Reply, error) bool) {
			if yield(iicp.Reply{Result: json.RawMessage("{")}, nil) {
				panic("it goes on after a part that was refused")
			}
		},
	}
	m := newMesh(t, iicp.NodeOptions{}, replies(func(_ context.Context, task *iicp.Inbound) iter.Seq2[iicp.Reply, error] {
		var how string
		_ = json.Unmarshal(task.Payload, &how)
		return func(yield func(iicp.Reply, error) bool) {
			if yield(iicp.Reply{Result: json.RawMessage(`"one"`)}, nil) {
				failures[how](yield)
			}
		}
	}))
	for how := range failures {
		want := iicp.ErrBackend
		if how == "reject" {
			want = iicp.ErrTaskRejected
		}
		var seen []string
		var last error
		ask := iicp.Task{Intent: iicp.IntentChat, Payload: json.RawMessage(strconv.Quote(how))}
		for chunk, err := range m.client.Stream(t.Context(), ask) {
			if last = err; err == nil {
				seen = append(seen, chunk.Text)
			}
		}
		if !errors.Is(last, want) || strings.Join(seen, "") != "one" || strings.Contains(last.Error(), "secret") {
			t.Errorf("%s: parts %q, then %v", how, seen, last)
		}
	}
}

func TestWhatCannotBeAskedFailsBeforeTheNetwork(t *testing.T) {
	client := must(iicp.NewClient(iicp.ClientOptions{Directory: "http://127.0.0.1:1"}))(t)
	defer client.Close()
	for want, ask := range map[iicp.Code]iicp.Streamed{
		iicp.ErrConfigInvalid:        iicp.Chat{},
		iicp.ErrPayloadInvalid:       iicp.Task{Intent: iicp.IntentChat},
		iicp.ErrIntentInvalid:        iicp.Task{Intent: "chat", Payload: json.RawMessage("{}")},
		iicp.ErrDirectoryUnreachable: iicp.UserChat("Hi"),
	} {
		count := 0
		for _, err := range client.Stream(t.Context(), ask) {
			if count++; !errors.Is(err, want) {
				t.Errorf("%v instead of %v", err, want)
			}
		}
		if count != 1 {
			t.Errorf("%v: %d times", want, count)
		}
	}
}
