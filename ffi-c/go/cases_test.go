package iicp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"iicp.network/go/iicp"
)

// object is JSON in JSON's own types, as everything in the case table is.
type object = map[string]any

// stage is the process that hosts what is behind the network.
type stage struct {
	in  io.Writer
	out *bufio.Reader
}

func (s *stage) call(command object) (object, error) {
	fmt.Fprintln(s.in, text(command))
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	answer := parse[object](line)
	if why, failed := answer["error"]; failed {
		return nil, fmt.Errorf("the stage: %v", why)
	}
	return as[object](answer["ok"]), nil
}

func text(value any) string { return string(must(json.Marshal(value))(nil)) }

func parse[T any](text []byte) (value T) {
	must(0, json.Unmarshal(text, &value))(nil)
	return value
}

// as is a value of this type, or the type's zero.
func as[T any](value any) T {
	typed, _ := value.(T)
	return typed
}

func TestEveryCaseKeepsItsPromise(t *testing.T) {
	program := os.Getenv("IICP_STAGE")
	if program == "" {
		t.Fatal("IICP_STAGE does not name the stage; run tests/go/run, which builds it")
	}
	cmd := exec.Command(program)
	in, out := must(cmd.StdinPipe())(t), must(cmd.StdoutPipe())(t)
	must(0, cmd.Start())(t)
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	runner := &stage{in, bufio.NewReader(out)}
	files := must(filepath.Glob("../../tests/cases/*.json"))(t)
	if len(files) == 0 {
		t.Error("there are no cases")
	}
	for _, file := range files {
		for _, c := range parse[[]object](must(os.ReadFile(file))(t)) {
			t.Run(c["name"].(string), func(t *testing.T) {
				if err := runner.run(c); err != nil {
					t.Errorf("%s\n    %v", c["promise"], err)
				}
			})
		}
	}
}

// run does one case.
func (s *stage) run(c object) error {
	scene, err := s.call(object{"setup": over(object{}, as[object](c["setup"]))})
	if err != nil {
		return err
	}
	steps := parse[[]object]([]byte(text(c["do"])))
	ranks := slices.ContainsFunc(steps, func(step object) bool { return step["rank"] != nil })
	subject, subjectErr := newSubject(as[object](c["client"]), scene, ranks)
	defer func() { end(subject) }()
	running := map[string]*calls{}
	for number, step := range steps {
		begun, outcomes, name := time.Now(), []object(nil), as[string](step["as"])
		if command := as[object](step["stage"]); command != nil {
			answer, err := s.call(command)
			if err != nil {
				return err
			}
			if command["add_node"] != nil {
				scene = answer
			}
		} else if options, ok := step["client_new"].(object); ok {
			end(subject)
			subject, subjectErr = newSubject(options, scene, ranks)
			outcomes = []object{outcome(object{}, subjectErr)}
		} else if join, cancel := as[string](step["join"]), as[string](step["cancel"]); join+cancel != "" {
			if cancel != "" {
				running[cancel].cancel()
			}
			outcomes = running[join+cancel].wait()
		} else if subjectErr != nil {
			return subjectErr
		} else if all := start(subject, step, scene); name != "" {
			running[name] = all
		} else {
			outcomes = all.wait()
		}
		for _, got := range outcomes {
			if err := check(as[object](step["expect"]), got, time.Since(begun)); err != nil {
				return fmt.Errorf("step %d: %w", number+1, err)
			}
		}
	}
	if ledger := c["ledger"]; ledger != nil {
		if _, err := s.call(object{"await": object{"ledger": ledger, "within_ms": 10_000}}); err != nil {
			return err
		}
	}
	_, err = s.call(object{"teardown": object{}})
	return err
}

// over puts the fields of one object over another's.
func over(to, from object) object {
	for name, value := range from {
		to[name] = value
	}
	return to
}

// ranking is the key in a call's context of what the step says of the ranker.
type ranking struct{}

// rank is the ranker of the cases.
func rank(ctx context.Context, request iicp.RankRequest) (*iicp.RankChoice, error) {
	switch told := ctx.Value(ranking{}).(type) {
	case object:
		return nil, errors.New(told["error"].(string))
	case string:
		switch told {
		case "last":
			last := request.Candidates[len(request.Candidates)-1]
			return &iicp.RankChoice{CandidateRef: last.CandidateRef, PolicyID: "case-policy"}, nil
		case "unknown":
			return &iicp.RankChoice{CandidateRef: "nobody", PolicyID: "case-policy"}, nil
		}
	}
	return nil, nil
}

// newSubject makes the client that a case is about.
func newSubject(given, scene object, ranks bool) (*iicp.Client, error) {
	url := scene["directory"].(string)
	options := over(object{"directory": url}, given)
	if named, ok := options["directory"].(string); ok {
		options["directory"] = strings.ReplaceAll(named, "$directory", url)
	}
	if !ranks {
		return iicp.NewClientJSON(text(options))
	}
	options["external_ranker"] = true
	return iicp.NewClientJSON(text(options), rank)
}

func end(subject *iicp.Client) {
	if subject != nil {
		subject.Close()
	}
}

// calls run at the same time.
type calls struct {
	cancel   context.CancelFunc
	outcomes []chan object
}

func start(client *iicp.Client, step, scene object) *calls {
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), ranking{}, step["rank"]))
	all := &calls{cancel: cancel}
	for range max(int(as[float64](step["parallel"])), 1) {
		each := make(chan object, 1)
		all.outcomes = append(all.outcomes, each)
		go func() { each <- outcome(attempt(ctx, client, step, scene)) }()
	}
	return all
}

func (c *calls) wait() (outcomes []object) {
	defer c.cancel()
	for _, each := range c.outcomes {
		outcomes = append(outcomes, <-each)
	}
	return outcomes
}

func attempt(ctx context.Context, client *iicp.Client, step, scene object) (object, error) {
	place := func(id string) any {
		is := func(node any) bool { return as[object](node)["node_id"] == id }
		if at := slices.IndexFunc(as[[]any](scene["nodes"]), is); at >= 0 {
			return at
		}
		return nil
	}
	// success is what every task has.
	success := func(done iicp.TaskResult, reply object) object {
		task := object{"node": place(done.NodeID), "attempts": done.Attempts, "sealed": done.Sealed, "receipt": done.Receipt}
		return over(task, reply)
	}
	if options, ok := step["submit"]; ok {
		payload := step["payload"]
		if size := as[float64](step["payload_bytes"]); size > 0 {
			payload = object{"pad": strings.Repeat("x", int(size)-10)}
		} else if _, given := step["payload"]; !given {
			payload = object{"text": "canary"}
		}
		done, err := iicp.SubmitJSON(client, ctx, text(options), []byte(text(payload)))
		if err != nil {
			return nil, err
		}
		return success(*done, object{"result": done.Result}), nil
	}
	if options, ok := step["chat"]; ok {
		r, err := iicp.ChatJSON(client, ctx, text(options))
		if err != nil {
			return nil, err
		}
		tools := append([]object{}, r.ToolCalls...)
		return success(r.TaskResult, object{"text": r.Text, "tool_calls": tools, "finish_reason": orNull(r.FinishReason),
			"usage": r.Usage, "model": orNull(r.Model)}), nil
	}
	if options, ok := step["stream"]; ok {
		var payload []byte
		if given, isTask := step["payload"]; isTask {
			payload = []byte(text(given))
		}
		texts, end := []string{}, iicp.StreamResult{}
		for chunk, err := range iicp.StreamJSON(client, ctx, text(options), payload, &end) {
			if err != nil {
				return over(outcome(nil, err), object{"texts": texts}), nil
			}
			if texts = append(texts, chunk.Text); len(texts) == int(as[float64](step["take"])) {
				return object{"texts": texts}, nil
			}
		}
		return success(end.TaskResult, object{"texts": texts, "tokens_used": end.TokensUsed}), nil
	}
	if given, ok := step["infer"].(object); ok {
		options := over(object{}, given)
		delete(options, "kind")
		delete(options, "audio_text")
		reply, err := iicp.InferJSON(client, ctx, given["kind"].(string), text(options), []byte(as[string](given["audio_text"])))
		if err != nil {
			return nil, err
		}
		switch r := reply.(type) {
		case *iicp.CompletionReply:
			return success(r.TaskResult, object{"text": r.Text, "finish_reason": orNull(r.FinishReason), "usage": r.Usage,
				"model": orNull(r.Model)}), nil
		case *iicp.EmbeddingReply:
			return success(r.TaskResult, object{"vectors": r.Vectors, "usage": r.Usage, "model": orNull(r.Model)}), nil
		case *iicp.TranscriptionReply:
			return success(r.TaskResult, object{"text": r.Text, "language": orNull(r.Language)}), nil
		case *iicp.SpeechReply:
			return success(r.TaskResult, object{"audio": string(r.Audio), "content_type": orNull(r.ContentType),
				"format": orNull(r.Format)}), nil
		case *iicp.ModerationReply:
			return success(r.TaskResult, object{"results": r.Results, "model": orNull(r.Model)}), nil
		}
	}
	nodes, err := iicp.DiscoverJSON(client, ctx, text(step["discover"]))
	places := []any{}
	for _, node := range nodes {
		places = append(places, place(node.NodeID))
	}
	return object{"nodes": places}, err
}

// orNull is a text, or what stands in JSON for one that is not there.
func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// outcome says what became of a call in the words of the table.
func outcome(success object, err error) object {
	if full := new(iicp.Error); errors.As(err, &full) {
		success = object{"code": full.Code.Name(), "message": full.Message, "retryable": full.Retryable}
		if full.RetryAfter > 0 {
			success["retry_after_ms"] = full.RetryAfter.Milliseconds()
		}
		if full.HTTPStatus > 0 {
			success["http_status"] = full.HTTPStatus
		}
		if full.WireCode != "" {
			success["wire_code"] = full.WireCode
		}
	}
	return parse[object]([]byte(text(success)))
}

// folded is a text in which timeout_ms and TimeoutMs are the same: the table has the engine's names.
func folded(text string) string { return strings.ToLower(strings.ReplaceAll(text, "_", "")) }

func check(expect, got object, took time.Duration) error {
	message := as[string](got["message"])
	good := (expect["code"] == nil) == (got["code"] == nil) && !strings.Contains(message, "canary")
	for name, value := range expect {
		switch name {
		case "says":
			for _, part := range value.([]any) {
				good = good && strings.Contains(folded(message), folded(part.(string)))
			}
		case "within_ms":
			good = good && took <= time.Duration(value.(float64))*time.Millisecond
		default:
			good = good && holds(value, got[name])
		}
	}
	if !good {
		return fmt.Errorf("expected %v, got %v after %v", expect, got, took)
	}
	return nil
}

// holds compares objects by the fields that are expected and everything else exactly; of a list of codes any will do.
func holds(expected, actual any) bool {
	switch expected := expected.(type) {
	case object:
		actual, ok := actual.(object)
		for name, value := range expected {
			ok = ok && holds(value, actual[name])
		}
		return ok
	case []any:
		if text, ok := actual.(string); ok {
			return slices.Contains(expected, any(text))
		}
		actual, ok := actual.([]any)
		return ok && slices.EqualFunc(expected, actual, holds)
	}
	return reflect.DeepEqual(expected, actual)
}
