package iicp

import (
	"log/slog"
	"strconv"
	"time"
)

// Code is a stable error code. Every code is an error that [errors.Is] finds in an [*Error]:
//
//	if errors.Is(err, iicp.ErrNoNodes) { ... }
type Code int32

// Error says the code's name.
func (c Code) Error() string { return "iicp: " + c.Name() }

// Error says what happened, what it was about and what to do next. It never holds a token, a key or a payload.
type Error struct {
	Code    Code
	Message string
	// Retryable tells whether the same call may succeed later without a change by the caller.
	Retryable bool
	// RetryAfter is how long the peer asked to wait, or 0.
	RetryAfter time.Duration
	// HTTPStatus is what the peer answered, or 0.
	HTTPStatus int
	// WireCode is the protocol's own code as the peer wrote it, such as "capacity_exceeded", or empty.
	WireCode string

	cause error
}

// Error says the message and the code.
func (e *Error) Error() string {
	return "iicp: " + e.Message + " (" + e.Code.Name() + " " + strconv.Itoa(int(e.Code)) + ")"
}

// Is tells whether target is the code of this error.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	return ok && code == e.Code
}

// Unwrap returns the error of the context that ended the call, if one did.
func (e *Error) Unwrap() error { return e.cause }

// LogValue shows the error in a structured log.
func (e *Error) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Int("code", int(e.Code)),
		slog.String("name", e.Code.Name()),
		slog.String("message", e.Message),
		slog.Bool("retryable", e.Retryable),
	)
}

// rejection is a deliberate refusal. A type of its own, because a handler may also return the error of another node that
// it asked, whose words are not for its caller.
type rejection string

func (r rejection) Error() string { return "iicp: the task was rejected: " + string(r) }

// Reject makes an error for a [Handler] to return, whose message the caller of the task reads, in an error with the code
// [ErrTaskRejected]. The message of any other error stays with the provider.
func Reject(message string) error { return rejection(message) }

func closed(what string) *Error {
	return &Error{Code: ErrClosed, Message: "the " + what + " was closed; make a new one"}
}
