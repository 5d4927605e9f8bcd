package iicp_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"iicp.network/go/iicp"
)

// wrong holds an error against its code, and against what it should say.
func wrong(t *testing.T, err error, code iicp.Code, says string) {
	t.Helper()
	var full *iicp.Error
	if !errors.Is(err, code) || !errors.As(err, &full) || full.Code != code || !strings.Contains(full.Message, says) {
		t.Errorf("got %v, not %v that says %q", err, code, says)
	}
	if errors.Is(err, iicp.ErrNoNodes) != (code == iicp.ErrNoNodes) {
		t.Errorf("%v matches another code", err)
	}
}

func TestBadTasksAreACodeThatSaysWhatIsWrong(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{}, echo)
	good := json.RawMessage(`{}`)
	for _, c := range []struct {
		task iicp.Task
		code iicp.Code
		says string
	}{
		{iicp.Task{Payload: good}, iicp.ErrIntentInvalid, "option Intent of a task is missing; give"},
		{iicp.Task{Intent: iicp.IntentChat, Payload: json.RawMessage(`{]`)}, iicp.ErrPayloadInvalid, "JSON"},
		{iicp.Task{Intent: iicp.IntentChat, Payload: json.RawMessage("\"\xff\"")}, iicp.ErrPayloadInvalid, "JSON"},
		{iicp.Task{Intent: iicp.IntentChat}, iicp.ErrPayloadInvalid, "JSON"},
		{iicp.Task{Intent: iicp.IntentChat, TimeoutMs: 120_001}, iicp.ErrTimeoutTooLarge, "option TimeoutMs is 120001 ms"},
		{iicp.Task{Intent: iicp.IntentChat, TimeoutMs: -1}, iicp.ErrConfigInvalid, "TimeoutMs: expected a whole number, 0 or more"},
		{iicp.Task{Intent: iicp.IntentChat, MinReputation: iicp.Ptr(math.NaN())}, iicp.ErrInvalidArg, "NaN"},
		{iicp.Task{Intent: iicp.IntentChat, Qos: "fastest"}, iicp.ErrConfigInvalid, "realtime"},
		{iicp.Task{Intent: iicp.IntentChat, Payload: good, Model: "a\xffb"}, iicp.ErrInvalidArg, "Model is not UTF-8"},
		{iicp.Task{Intent: iicp.IntentChat, Payload: good, Model: "a\ufffdb"}, iicp.ErrNoNodes, "no node"},
		{iicp.Task{Intent: iicp.IntentChat, Payload: good, Model: `a\ufffdb`}, iicp.ErrNoNodes, "no node"},
		{iicp.Task{Intent: "urn:iicp:intent:other:v1", Payload: good}, iicp.ErrNoNodes, "other"},
	} {
		_, err := m.client.Submit(t.Context(), c.task)
		wrong(t, err, c.code, c.says)
	}
	_, err := m.client.Chat(t.Context(), iicp.UserChat("a\xff"))
	wrong(t, err, iicp.ErrInvalidArg, "Content is not UTF-8")
	parts := []iicp.ContentPart{iicp.TextPart("a"), iicp.TextPart("b\xff")}
	_, err = m.client.Chat(t.Context(), iicp.Chat{Messages: []iicp.ChatMessage{{Role: "user", Content: parts}}})
	wrong(t, err, iicp.ErrInvalidArg, "Text is not UTF-8")
	_, err = m.client.Complete(t.Context(), iicp.Completion{Prompt: "a", Extra: map[string]any{"k": []any{"b\xff"}}})
	wrong(t, err, iicp.ErrInvalidArg, "Extra is not UTF-8")
	_, err = m.client.Complete(t.Context(), iicp.Completion{})
	wrong(t, err, iicp.ErrConfigInvalid, "option Prompt of a completion")
	_, err = m.client.Transcribe(t.Context(), iicp.Transcription{})
	wrong(t, err, iicp.ErrConfigInvalid, "option Audio of a transcription")
	_, err = m.client.Chat(t.Context(), iicp.Chat{})
	wrong(t, err, iicp.ErrConfigInvalid, "option Messages of a chat")
	_, err = m.client.Discover(t.Context(), iicp.Discover{Intent: iicp.IntentChat, Limit: 51})
	wrong(t, err, iicp.ErrConfigInvalid, "option Limit of a discovery")
}

func TestBadOptionsAreACodeThatNamesThem(t *testing.T) {
	_, err := iicp.NewClient(iicp.ClientOptions{MaxAttempts: 99})
	wrong(t, err, iicp.ErrConfigInvalid, "option MaxAttempts of a client is 99")
	_, err = iicp.NewClient(iicp.ClientOptions{ConsumerAuth: "required"})
	wrong(t, err, iicp.ErrConfigInvalid, "and so NodeToken must be given")
	_, err = iicp.NewClient(iicp.ClientOptions{RoutingPolicy: &iicp.RoutingPolicy{Profile: "lax"}})
	wrong(t, err, iicp.ErrConfigInvalid, "RoutingPolicy: expected one of")
	_, err = iicp.NewClient(iicp.ClientOptions{RoutingPolicy: &iicp.RoutingPolicy{AllowedRegions: []string{"eu\xff"}}})
	wrong(t, err, iicp.ErrInvalidArg, "AllowedRegions is not UTF-8")
	_, err = iicp.NewClientJSON(`{"max_atempts": 1}`)
	wrong(t, err, iicp.ErrConfigInvalid, "max_atempts")
	_, err = iicp.NewClientJSON("{\"region\": \"\xff\"}")
	wrong(t, err, iicp.ErrInvalidArg, "UTF-8")
	_, err = iicp.NewDirectory(iicp.DirectoryOptions{Port: 65_536})
	wrong(t, err, iicp.ErrConfigInvalid, "whole number, 0 to 65535")
	_, err = iicp.NewDirectory(iicp.DirectoryOptions{Host: "192.0.2.1"})
	wrong(t, err, iicp.ErrConfidentialityRequired, "192.0.2.1")
	_, err = iicp.Serve(t.Context(), iicp.NodeOptions{}, nil)
	wrong(t, err, iicp.ErrNullArg, "handler")
	_, err = iicp.Serve(t.Context(), iicp.NodeOptions{}, iicp.HandlerFunc(echo))
	wrong(t, err, iicp.ErrConfigInvalid, "option Intents of a node")
	_, err = iicp.Serve(t.Context(), iicp.NodeOptions{Intents: []string{"a", "b\xff"}}, iicp.HandlerFunc(echo))
	wrong(t, err, iicp.ErrInvalidArg, "Intents is not UTF-8")
	_, err = iicp.JSONReply(func() {})
	wrong(t, err, iicp.ErrHandler, "JSON")
}

func TestARefusalThatIsNoUTF8IsStillRead(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{}, func(context.Context, *iicp.Inbound) (iicp.Reply, error) {
		return iicp.Reply{}, iicp.Reject("no\xff, thanks")
	})
	_, err := m.submit(t.Context(), `{}`)
	wrong(t, err, iicp.ErrTaskRejected, "no\ufffd, thanks")
}

func TestOnlyOnesOwnRefusalIsForTheCaller(t *testing.T) {
	far := newMesh(t, iicp.NodeOptions{}, func(context.Context, *iicp.Inbound) (iicp.Reply, error) {
		return iicp.Reply{}, iicp.Reject("canary")
	})
	near := newMesh(t, iicp.NodeOptions{}, func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		_, err := far.submit(ctx, `{}`)
		return iicp.Reply{}, err
	})
	_, err := near.submit(t.Context(), `{}`)
	wrong(t, err, iicp.ErrBackend, "")
	if strings.Contains(err.Error(), "canary") {
		t.Errorf("the caller reads what another node said: %v", err)
	}
}
