package iicp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sync"
	"time"
	"unicode/utf8"
)

// engine is the library's runtime, made with the first object of the process and kept until its end.
var engine = sync.OnceValues(runtimeNew)

// queue pairs operations with those who wait for them. One goroutine takes its events.
type queue struct {
	id     uint64
	what   string
	onTask func(event)
	// bell can be read while the queue has events; nil where a thread must wait for them.
	bell *os.File

	mu      sync.Mutex
	lastTag uint64
	waiting map[uint64]waiter
	ranker  Ranker

	closing sync.Once
	ended   chan struct{}
}

// waiter is who waits for the last event of an operation, as long as the context says.
type waiter struct {
	ctx  context.Context
	over chan event
	// parts takes what comes before; nil where nothing does.
	parts *parts
}

// newQueue starts a queue. Inbound tasks and what becomes of them go to onTask, on the queue's own goroutine.
func newQueue(what string, onTask func(event)) (*queue, error) {
	runtime, err := engine()
	if err != nil {
		return nil, err
	}
	id, err := queueNew(runtime)
	if err != nil {
		return nil, err
	}
	q := &queue{id: id, what: what, onTask: onTask, bell: pollable(id), waiting: map[uint64]waiter{}, ended: make(chan struct{})}
	go q.pump()
	return q, nil
}

// pump takes the queue's events until it is closed and empty.
func (q *queue) pump() {
	defer close(q.ended)
	defer queueFree(q.id)
	events, open := new(batch), true
	if q.bell != nil {
		defer q.bell.Close()
		for bell, err := q.bell.SyscallConn(); err == nil && open; {
			err = bell.Read(func(uintptr) bool {
				open = events.take(q.id)
				return !open || events.len() > 0
			})
			events.each(q.hand)
		}
	}
	for open && events.await(q.id) {
		events.each(q.hand)
	}
}

// hand gives an event to who waits for it.
func (q *queue) hand(e event) {
	switch e.kind {
	case eventDone:
		q.mu.Lock()
		waiter, found := q.waiting[e.tag]
		delete(q.waiting, e.tag)
		q.mu.Unlock()
		if found {
			waiter.over <- e
		}
	case eventChunk:
		q.mu.Lock()
		waiter := q.waiting[e.tag]
		q.mu.Unlock()
		if waiter.parts == nil {
			e.letGo()
			return
		}
		waiter.parts.add(e)
	case eventRank:
		q.mu.Lock()
		waiter, found := q.waiting[e.tag]
		ranker := q.ranker
		q.mu.Unlock()
		if found {
			go rank(waiter.ctx, ranker, e)
		}
	case eventTask, eventTaskCancel, eventTaskRoom:
		q.onTask(e)
	}
}

// patience bounds the wait for the end of an operation that was cancelled, which the library promises to come at once.
const patience = 10 * time.Second

// call starts an operation and waits for its last event. A context that ends cancels the operation, and the wait goes
// on until the library says that it is over.
func (q *queue) call(ctx context.Context, start func(tag uint64) (uint64, error)) (event, error) {
	if err := ctx.Err(); err != nil {
		return event{}, ended(ctx)
	}
	// Who still ranks when the call is over is told.
	asked, end := ctx, func() {}
	if q.ranker != nil {
		asked, end = context.WithCancel(ctx)
	}
	defer end()
	over := make(chan event, 1)
	op, err := q.begin(waiter{ctx: asked, over: over}, start)
	if err != nil {
		return event{}, err
	}
	var e event
	select {
	case e = <-over:
	case <-ctx.Done():
		opCancel(op)
		select {
		case e = <-over:
		case <-time.After(patience):
			return event{}, ended(ctx)
		}
	}
	if err := failure(ctx, e); err != nil {
		return event{}, err
	}
	return e, nil
}

// begin starts an operation for who waits for it.
func (q *queue) begin(w waiter, start func(tag uint64) (uint64, error)) (uint64, error) {
	q.mu.Lock()
	q.lastTag++
	tag := q.lastTag
	q.waiting[tag] = w
	q.mu.Unlock()
	op, err := start(tag)
	if err != nil {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.waiting, tag)
		if errors.Is(err, ErrStaleID) {
			err = closed(q.what)
		}
	}
	return op, err
}

// failure is why an operation failed, in the words of its context if that has ended it; nil if it did not fail.
func failure(ctx context.Context, done event) error {
	switch {
	case done.err == nil:
		return nil
	case done.err.Code == ErrCancelled && ctx.Err() != nil:
		return ended(ctx)
	default:
		return done.err
	}
}

// close ends what waits in the queue and the goroutine that takes its events; it may be called twice.
func (q *queue) close() {
	q.closing.Do(func() {
		queueClose(q.id)
		if q.bell != nil {
			// The bell need not ring for a queue that is empty; the pump waits for the rest without it.
			_ = q.bell.SetReadDeadline(time.Unix(0, 0))
		}
	})
	<-q.ended
}

// ended is the error of a call whose context ended before the call did.
func ended(ctx context.Context) *Error {
	why := ctx.Err()
	e := &Error{Code: ErrCancelled, cause: why}
	if errors.Is(why, context.DeadlineExceeded) {
		e.Code, e.Retryable = ErrTimeout, true
	}
	if cause := context.Cause(ctx); cause != why {
		e.cause = fmt.Errorf("%w: %w", why, cause)
	}
	e.Message = "the call's context ended before there was a result: " + e.cause.Error()
	return e
}

// options writes options as the library reads them.
func options(of any) (string, error) {
	text, err := json.Marshal(of)
	if err != nil {
		return "", &Error{Code: ErrInvalidArg, Message: "the options have no JSON form: " + err.Error(), cause: err}
	}
	// What may stand for bytes that are no UTF-8, and seldom for itself.
	if bytes.Contains(text, []byte(`\ufffd`)) || bytes.ContainsRune(text, utf8.RuneError) {
		if name := notUTF8("", reflect.ValueOf(of)); name != "" {
			return "", &Error{Code: ErrInvalidArg, Message: "option " + name + " is not UTF-8; pass text in UTF-8"}
		}
	}
	return string(text), nil
}

// notUTF8 names an option whose text is not UTF-8. Package json replaces what is wrong in it without a word.
func notUTF8(name string, value reflect.Value) string {
	switch value.Kind() {
	case reflect.String:
		if !utf8.ValidString(value.String()) {
			return name
		}
	case reflect.Struct:
		for i := range value.NumField() {
			if wrong := notUTF8(value.Type().Field(i).Name, value.Field(i)); wrong != "" {
				return wrong
			}
		}
	case reflect.Pointer, reflect.Interface:
		return notUTF8(name, value.Elem())
	case reflect.Map:
		for each := value.MapRange(); each.Next(); {
			if wrong := notUTF8(name, each.Key()) + notUTF8(name, each.Value()); wrong != "" {
				return name
			}
		}
	case reflect.Slice:
		if value.Type().Elem().Kind() == reflect.Uint8 {
			return "" // A payload, which the library checks.
		}
		for i := range value.Len() {
			if wrong := notUTF8(name, value.Index(i)); wrong != "" {
				return wrong
			}
		}
	}
	return ""
}

// read reads what the library wrote.
func read(text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return &Error{Code: ErrInternal, Message: "the library's answer could not be read: " + err.Error(), cause: err}
	}
	return nil
}
