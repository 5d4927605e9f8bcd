package iicp

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"sync"
	"time"
)

// Chunk is a part of a result, in the order in which the provider made it.
type Chunk struct {
	// Sequence is its place among the parts, from 0.
	Sequence int64
	// Text is what a chat says next; empty if this part says nothing.
	Text string
	// Result is the part as the handler gave it, JSON; from a provider that does not stream, the whole result.
	Result json.RawMessage
	// TokensUsed is how many tokens the task has used so far, or 0 if the provider does not count.
	TokensUsed int64
	TaskID     string
	// NodeID is the node that runs the task.
	NodeID string
}

// StreamResult is what is known of a stream that has ended. Its Result is nil: the parts were it.
type StreamResult struct {
	TaskResult
	// FinishReason is why the answer ended, such as "stop" or "length", or empty.
	FinishReason string
	// Usage is nil if the provider did not count.
	Usage *Usage
	// Model is the model that answered, or empty if the provider does not say.
	Model string
	// TokensUsed is how many tokens the whole task took, or 0 if the provider does not count.
	TokensUsed int64
}

// Streamed is what [Client.Stream] takes: a [Task] or a [Chat].
type Streamed interface {
	streamed() (ask string, body []byte, err error)
}

func (t Task) streamed() (string, []byte, error) {
	text, err := options(t)
	if err == nil && len(t.Payload) == 0 {
		err = &Error{Code: ErrPayloadInvalid, Message: "the task has no payload; set Payload to JSON"}
	}
	return text, t.Payload, err
}

func (c Chat) streamed() (string, []byte, error) {
	text, err := options(c)
	return text, nil, err
}

// Stream sends a chat or any other task whose result comes in parts as the provider makes them:
//
//	for chunk, err := range client.Stream(ctx, iicp.UserChat("Hello")) {
//
// Every loop over it sends the task anew. Leaving the loop, or the end of ctx, cancels the task at the provider, whose handler
// stops; a slow loop slows the provider down. An error is the last that comes, and the result stays incomplete. The task's
// time is for the whole stream. A provider that does not stream gives its whole result as one part.
//
// What is known at the end is written to end, if there is one.
func (c *Client) Stream(ctx context.Context, ask Streamed, end ...*StreamResult) iter.Seq2[Chunk, error] {
	text, body, err := ask.streamed()
	if err != nil {
		return func(yield func(Chunk, error) bool) { yield(Chunk{}, err) }
	}
	return c.stream(ctx, text, body, end...)
}

func (c *Client) stream(ctx context.Context, ask string, body []byte, end ...*StreamResult) iter.Seq2[Chunk, error] {
	return func(yield func(Chunk, error) bool) {
		s, err := c.queue.follow(ctx, func(tag uint64) (uint64, error) {
			return startStream(c.id, c.queue.id, ask, body, tag)
		})
		if err != nil {
			yield(Chunk{}, err)
			return
		}
		defer s.leave()
		for {
			part, more, err := s.next(ctx)
			switch {
			case err != nil:
				yield(Chunk{}, err)
				return
			case !more:
				for _, to := range end {
					*to = streamResult(part)
				}
				return
			case !yield(chunk(part), nil):
				return
			}
		}
	}
}

// parts are those of a stream that nobody has taken yet. Each counts at the library, which so bounds them.
type parts struct {
	mu     sync.Mutex
	events []event
	// some is told when there are some.
	some chan struct{}
}

func (p *parts) add(e event) {
	p.mu.Lock()
	p.events = append(p.events, e)
	p.mu.Unlock()
	select {
	case p.some <- struct{}{}:
	default:
	}
}

func (p *parts) take() (e event, found bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.events) == 0 {
		return event{}, false
	}
	e, p.events = p.events[0], p.events[1:]
	e.letGo()
	return e, true
}

// stream is an operation that comes in parts.
type stream struct {
	op     uint64
	parts  *parts
	over   chan event
	done   event
	isOver bool
	end    context.CancelFunc
}

func (q *queue) follow(ctx context.Context, start func(tag uint64) (uint64, error)) (*stream, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	s := &stream{parts: &parts{some: make(chan struct{}, 1)}, over: make(chan event, 1)}
	asked, end := context.WithCancel(ctx)
	s.end = end
	var err error
	if s.op, err = q.begin(waiter{ctx: asked, over: s.over, parts: s.parts}, start); err != nil {
		end()
		return nil, err
	}
	return s, nil
}

// next is the next part; after the last one it is the end, and there is no more.
func (s *stream) next(ctx context.Context) (e event, more bool, err error) {
	for {
		if part, found := s.parts.take(); found {
			return part, true, nil
		}
		if s.isOver {
			return s.done, false, failure(ctx, s.done)
		}
		select {
		case <-s.parts.some:
		case s.done = <-s.over:
			s.isOver = true
		case <-ctx.Done():
			return event{}, false, ended(ctx)
		}
	}
}

// leave cancels what still runs, and waits until the library says that it is over.
func (s *stream) leave() {
	defer s.end()
	if !s.isOver {
		opCancel(s.op)
		select {
		case <-s.over:
		case <-time.After(patience):
		}
	}
	for found := true; found; {
		_, found = s.parts.take()
	}
}

func chunk(e event) Chunk {
	part := Chunk{Result: e.body}
	for name, value := range members(e.json) {
		switch name {
		case "sequence":
			part.Sequence = value.integer()
		case "text":
			part.Text = value.text()
		case "tokens_used":
			part.TokensUsed = value.integer()
		case "task_id":
			part.TaskID = value.text()
		case "node_id":
			part.NodeID = value.text()
		}
	}
	return part
}

func streamResult(done event) StreamResult {
	result := StreamResult{TaskResult: taskResult(done)}
	for name, value := range members(done.json) {
		switch name {
		case "finish_reason":
			result.FinishReason = value.text()
		case "model":
			result.Model = value.text()
		case "tokens_used":
			result.TokensUsed = value.integer()
		case "usage":
			_ = json.Unmarshal(value, &result.Usage)
		}
	}
	return result
}

// StreamReply makes a reply that comes in parts: each is given to the caller as soon as it has taken those before. The
// iterator is left when the caller leaves. A caller who takes no parts gets them put together. An error ends the task as
// failed, as one that a handler returns.
func StreamReply(parts iter.Seq2[Reply, error]) Reply { return Reply{parts: parts} }

// Delta makes the next words of a chat, in the form that chat clients read: a part for [StreamReply].
func Delta(content string) Reply {
	type delta struct {
		Content string `json:"content"`
	}
	type choice struct {
		Index int   `json:"index"`
		Delta delta `json:"delta"`
	}
	result, _ := json.Marshal(map[string][]choice{"choices": {{Delta: delta{content}}}})
	return Reply{Result: result}
}

// give gives the caller of a task a part, when there is room for it.
func (n *Node) give(ctx context.Context, task uint64, part Reply, room <-chan struct{}) error {
	for {
		err := taskChunk(task, part)
		if !errors.Is(err, ErrQueueFull) {
			return err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// giveAll gives the caller of a task every part of a reply. What it returns is the end.
func (n *Node) giveAll(ctx context.Context, task uint64, parts iter.Seq2[Reply, error]) (Reply, error) {
	room := make(chan struct{}, 1)
	n.mu.Lock()
	n.rooms[task] = room
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.rooms, task)
	}()
	// Also where no part will come.
	if err := taskChunk(task, Reply{}); err != nil {
		return Reply{}, err
	}
	for part, err := range parts {
		if err == nil {
			err = n.give(ctx, task, part, room)
		}
		if err != nil {
			return Reply{}, err
		}
	}
	return Reply{}, nil
}

// hasRoom tells the handler of a task that its caller has taken parts.
func (n *Node) hasRoom(task uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	select {
	case n.rooms[task] <- struct{}{}:
	default:
	}
}
