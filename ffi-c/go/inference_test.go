package iicp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"iicp.network/go/iicp"
)

// models serves every model task, as a backend would.
func models(_ context.Context, task *iicp.Inbound) (iicp.Reply, error) {
	var asked struct {
		Prompt, Audio, Voice string
		Input                any
		Dimensions           int
	}
	if err := json.Unmarshal(task.Payload, &asked); err != nil {
		return iicp.Reply{}, err
	}
	answers := map[string]object{
		iicp.IntentCompletion: {
			"choices": []object{{"text": asked.Prompt + " mesh", "finish_reason": "stop"}}, "model": "m-1",
			"usage": object{"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
		},
		iicp.IntentEmbedding: {
			"data": []object{{"index": 1, "embedding": []float64{0.5, 1}}, {"index": 0, "embedding": []any{asked.Dimensions, 0}}},
		},
		iicp.IntentTranscription: {"text": "heard " + asked.Audio, "language": "en"},
		iicp.IntentSpeech:        {"audio": []byte(fmt.Sprint(asked.Voice, "\x00", asked.Input)), "content_type": "audio/wav", "format": "wav"},
		iicp.IntentModeration: {
			"results": []object{{"flagged": true, "categories": object{"violence": true}, "category_scores": object{"violence": 0.5}}},
		},
	}
	return iicp.JSONReply(answers[task.Intent])
}

func TestEveryModelTaskHasItsReply(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{Intents: []string{
		iicp.IntentCompletion, iicp.IntentEmbedding, iicp.IntentTranscription, iicp.IntentSpeech, iicp.IntentModeration,
	}}, models)
	ctx := t.Context()
	completed := must(m.client.Complete(ctx, iicp.Completion{Prompt: "Hello,", MaxTokens: 5, Stop: []string{"\n"}}))(t)
	if completed.Text != "Hello, mesh" || completed.FinishReason != "stop" || completed.Model != "m-1" || completed.Usage.TotalTokens != 3 {
		t.Errorf("got %+v", completed)
	}
	if completed.NodeID != m.node.NodeID() || !json.Valid(completed.Result) || !completed.Sealed {
		t.Errorf("got %+v", completed)
	}
	embedded := must(m.client.Embed(ctx, iicp.Embedding{Input: []string{"a", "b"}, Dimensions: 2}))(t)
	if !reflect.DeepEqual(embedded.Vectors, [][]float32{{2, 0}, {0.5, 1}}) || embedded.Usage != nil {
		t.Errorf("got %+v", embedded)
	}
	heard := must(m.client.Transcribe(ctx, iicp.Transcription{Audio: []byte("\x00RIFF"), Language: "en"}))(t)
	if heard.Text != "heard AFJJRkY=" || heard.Language != "en" {
		t.Errorf("got %+v", heard)
	}
	spoken := must(m.client.Speak(ctx, iicp.Speech{Input: "Hello", Voice: "alloy"}))(t)
	if string(spoken.Audio) != "alloy\x00Hello" || spoken.ContentType != "audio/wav" || spoken.Format != "wav" || spoken.Result != nil {
		t.Errorf("got %+v", spoken)
	}
	judged := must(m.client.Moderate(ctx, iicp.Moderation{Input: []string{"a"}}))(t)
	if len(judged.Results) != 1 || !judged.Results[0].Flagged || judged.Results[0].CategoryScores["violence"] != 0.5 {
		t.Errorf("got %+v", judged)
	}
}

func TestPartsAndToolsOfAChatReachTheHandlerAndItsToolCallsTheCaller(t *testing.T) {
	payloads := make(chan json.RawMessage, 1)
	m := newMesh(t, iicp.NodeOptions{}, func(_ context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		payloads <- task.Payload
		call := object{"id": "c-1", "function": object{"name": "clock"}}
		message := object{"content": nil, "tool_calls": []object{call}}
		return iicp.JSONReply(object{"choices": []object{{"message": message, "finish_reason": "tool_calls"}}})
	})
	parts := []iicp.ContentPart{
		iicp.TextPart("What is this?"), iicp.ImagePart("data:image/png;base64,AA=="), iicp.AudioPart([]byte{0, 0, 0}, "wav"),
	}
	reply := must(m.client.Chat(t.Context(), iicp.Chat{
		Messages: []iicp.ChatMessage{{Role: "user", Content: parts}},
		Tools:    []map[string]any{{"type": "function", "function": object{"name": "clock"}}}, ToolChoice: "auto",
		Extra: map[string]any{"seed": 7},
	}))(t)
	if reply.Text != "" || reply.FinishReason != "tool_calls" || len(reply.ToolCalls) != 1 || reply.ToolCalls[0]["id"] != "c-1" {
		t.Errorf("got %+v", reply)
	}
	payload := parse[object](<-payloads)
	messages := payload["messages"].([]any)
	content := messages[len(messages)-1].(object)["content"].([]any)
	if len(content) != 3 || content[1].(object)["image_url"].(object)["url"] != "data:image/png;base64,AA==" ||
		content[2].(object)["input_audio"].(object)["data"] != "AAAA" {
		t.Errorf("the handler got %v", content)
	}
	if payload["seed"] != 7.0 || payload["tool_choice"] != "auto" || len(payload["tools"].([]any)) != 1 {
		t.Errorf("the handler got %v", payload)
	}
	// And what the model wants called goes back with its answer.
	must(m.client.Chat(t.Context(), iicp.Chat{Messages: []iicp.ChatMessage{
		{Role: "assistant", ToolCalls: reply.ToolCalls}, {Role: "tool", ToolCallID: "c-1", Content: "12:00"},
	}}))(t)
	<-payloads
}

func TestAPolicyOfTheClientOrTheCallRefuses(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{Region: "us-east"}, echo)
	eu := &iicp.RoutingPolicy{Profile: "eu_restricted"}
	_, err := m.client.Submit(t.Context(), iicp.Task{Intent: iicp.IntentChat, RoutingPolicy: eu, Payload: []byte(`{}`)})
	wrong(t, err, iicp.ErrPolicyRefused, "")
	client := must(iicp.NewClient(iicp.ClientOptions{Directory: m.directory.URL(), RoutingPolicy: eu}))(t)
	defer client.Close()
	_, err = client.Submit(t.Context(), iicp.Task{Intent: iicp.IntentChat, Payload: []byte(`{}`)})
	wrong(t, err, iicp.ErrPolicyRefused, "")
	// An empty list allows every region, and is not the same as none.
	anywhere := &iicp.RoutingPolicy{Profile: "eu_restricted", AllowedRegions: []string{}}
	must(client.Submit(t.Context(), iicp.Task{Intent: iicp.IntentChat, RoutingPolicy: anywhere, Payload: []byte(`{}`)}))(t)
}

// ranked is a client of a mesh with two nodes, and its ranker.
func ranked(t *testing.T, timeout time.Duration, ranker iicp.Ranker) *iicp.Client {
	t.Helper()
	m := newMesh(t, iicp.NodeOptions{Models: []string{"small"}}, echo)
	options := iicp.NodeOptions{Intents: []string{iicp.IntentChat}, Directory: m.directory.URL()}
	other := must(iicp.Serve(context.Background(), options, iicp.HandlerFunc(echo)))(t)
	client := must(iicp.NewClient(iicp.ClientOptions{
		Directory: m.directory.URL(), RouteDiscovery: "legacy", RoutingStrategy: "deterministic", TimeoutMs: timeout.Milliseconds(),
	}, iicp.WithRanker(ranker)))(t)
	t.Cleanup(func() { client.Close(); other.Close() })
	return client
}

func TestARankerPicksDeclinesOrRefuses(t *testing.T) {
	task := iicp.Task{Intent: iicp.IntentChat, Payload: []byte(`{}`)}
	says := errors.New("my evaluator is away\xff")
	for name, c := range map[string]struct {
		ranker iicp.Ranker
		by     string
		says   string
	}{
		"picks": {func(_ context.Context, asked iicp.RankRequest) (*iicp.RankChoice, error) {
			if asked.Intent != iicp.IntentChat || asked.RequestRef == "" || len(asked.Candidates) != 2 || asked.Candidates[0].SchemaVersion == "" {
				return nil, fmt.Errorf("asked %+v", asked)
			}
			return &iicp.RankChoice{CandidateRef: asked.Candidates[1].CandidateRef, PolicyID: "mine", Exploration: true}, nil
		}, "external_ranker/mine/exploration", ""},
		"declines": {func(context.Context, iicp.RankRequest) (*iicp.RankChoice, error) { return nil, nil }, "deterministic", ""},
		"refuses":  {func(context.Context, iicp.RankRequest) (*iicp.RankChoice, error) { return nil, says }, "", "my evaluator is away"},
		"panics":   {func(context.Context, iicp.RankRequest) (*iicp.RankChoice, error) { panic("out of tune") }, "", "out of tune"},
		"makes up": {func(context.Context, iicp.RankRequest) (*iicp.RankChoice, error) {
			return &iicp.RankChoice{CandidateRef: "nobody", PolicyID: "mine"}, nil
		}, "", "eligible"},
		"says nothing": {func(context.Context, iicp.RankRequest) (*iicp.RankChoice, error) { return &iicp.RankChoice{}, nil }, "", "ranker"},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := ranked(t, 30*time.Second, c.ranker).Submit(t.Context(), task)
			if c.by == "" {
				wrong(t, err, iicp.ErrRankerRefused, c.says)
			} else if err != nil || result.Receipt.SelectionProfile != c.by {
				t.Errorf("got %+v, %v", result, err)
			}
		})
	}
}

func TestARankerThatHangsEndsWithItsCall(t *testing.T) {
	begun, over := make(chan struct{}, 1), make(chan struct{}, 1)
	ranker := func(ctx context.Context, _ iicp.RankRequest) (*iicp.RankChoice, error) {
		begun <- struct{}{}
		<-ctx.Done()
		over <- struct{}{}
		return nil, ctx.Err()
	}
	client := ranked(t, 300*time.Millisecond, ranker)
	_, err := client.Submit(t.Context(), iicp.Task{Intent: iicp.IntentChat, Payload: []byte(`{}`)})
	wrong(t, err, iicp.ErrTimeout, "")
	<-begun
	<-over

	client = ranked(t, 30*time.Second, ranker)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	_, err = client.Chat(ctx, iicp.UserChat("x"))
	wrong(t, err, iicp.ErrCancelled, "")
	<-over

	ended := make(chan error, 1)
	go func() {
		_, err := client.Complete(context.Background(), iicp.Completion{Prompt: "x", Route: &iicp.RouteConstraints{Limit: 1}})
		ended <- err
	}()
	// Nobody serves completions, so nobody is ranked; and a call that is ranked ends with its client.
	wrong(t, <-ended, iicp.ErrNoNodes, "")
	go func() { _, err := client.Chat(context.Background(), iicp.UserChat("x")); ended <- err }()
	<-begun
	client.Close()
	wrong(t, <-ended, iicp.ErrClosed, "")
	<-over
}

func TestAnExternalRankerThatIsNotThereIsSaid(t *testing.T) {
	m := newMesh(t, iicp.NodeOptions{}, echo)
	client := must(iicp.NewClient(iicp.ClientOptions{Directory: m.directory.URL(), ExternalRanker: true}))(t)
	defer client.Close()
	_, err := client.Submit(t.Context(), iicp.Task{Intent: iicp.IntentChat, Payload: []byte(`{}`)})
	wrong(t, err, iicp.ErrRankerRefused, "WithRanker")
}

func TestATokenIsNeverShown(t *testing.T) {
	const canary = "canary-1a2b3c"
	options := iicp.ClientOptions{NodeToken: canary, MaxAttempts: 99}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("made", "options", options, "token", options.NodeToken)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("made", "options", options, "token", options.NodeToken)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
		fmt.Fprintf(&logged, verb+" ", options)
		fmt.Fprintf(&logged, verb+" ", options.NodeToken)
		fmt.Fprintf(&logged, verb+" ", &options)
	}
	logged.WriteString(text(options) + fmt.Sprint(options.NodeToken) + options.NodeToken.String())
	_, err := iicp.NewClient(options)
	wrong(t, err, iicp.ErrConfigInvalid, "option MaxAttempts of a client is 99")
	fmt.Fprintf(&logged, "%v %+v", err, err)
	options.NodeToken += "\n"
	_, err = iicp.NewClient(options)
	fmt.Fprintf(&logged, "%v", err)
	options.NodeToken = canary + "\xff"
	_, err = iicp.NewClient(options)
	wrong(t, err, iicp.ErrInvalidArg, "NodeToken is not UTF-8")
	fmt.Fprintf(&logged, "%v", err)
	hex := fmt.Sprintf("%x", canary)
	if all := logged.String(); strings.Contains(all, canary) || strings.Contains(all, hex) {
		t.Errorf("shown: %s", all)
	}
	// But a file of options may hold one, and the library gets it.
	read := parse[iicp.ClientOptions]([]byte(`{"node_token": "` + canary + `", "consumer_auth": "required"}`))
	must(iicp.NewClient(read))(t).Close()
}
