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
	if _, err := fmt.Fprintln(s.in, text(command)); err != nil {
		return nil, err
	}
	line, err := s.out.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	answer := parse[object](line)
	if why, failed := answer["error"]; failed {
		return nil, fmt.Errorf("the stage: %v", why)
	}
	ok, _ := answer["ok"].(object)
	return ok, nil
}

func text(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func parse[T any](text []byte) (value T) {
	if err := json.Unmarshal(text, &value); err != nil {
		panic(err)
	}
	return value
}

func TestEveryCaseKeepsItsPromise(t *testing.T) {
	program := os.Getenv("IICP_STAGE")
	if program == "" {
		t.Skip("IICP_STAGE does not name the stage; tests/go/run does")
	}
	cmd := exec.Command(program)
	in, out := must(cmd.StdinPipe())(t), must(cmd.StdoutPipe())(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
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
	setup, _ := c["setup"].(object)
	scene, err := s.call(object{"setup": over(object{}, setup)})
	if err != nil {
		return err
	}
	given, _ := c["client"].(object)
	client, clientErr := newClient(given, scene)
	defer func() { client.close() }()
	running := map[string]*calls{}
	for number, each := range c["do"].([]any) {
		step := each.(object)
		begun, outcomes := time.Now(), []object(nil)
		as, _ := step["as"].(string)
		if command, ok := step["stage"].(object); ok {
			answer, err := s.call(command)
			if err != nil {
				return err
			}
			if command["add_node"] != nil {
				scene = answer
			}
		} else if options, ok := step["client_new"].(object); ok {
			client.close()
			client, clientErr = newClient(options, scene)
			outcomes = []object{outcome(object{}, clientErr)}
		} else if name, ok := step["join"].(string); ok {
			outcomes = running[name].wait()
		} else if name, ok := step["cancel"].(string); ok {
			running[name].cancel()
			outcomes = running[name].wait()
		} else if clientErr != nil {
			return clientErr
		} else if all := client.start(step, scene); as != "" {
			running[as] = all
		} else {
			outcomes = all.wait()
		}
		expect, _ := step["expect"].(object)
		for _, got := range outcomes {
			if err := check(expect, got, time.Since(begun)); err != nil {
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

// subject is the client that a case is about; it may be none.
type subject struct{ *iicp.Client }

func (c subject) close() {
	if c.Client != nil {
		c.Close()
	}
}

func newClient(given, scene object) (subject, error) {
	url := scene["directory"].(string)
	options := over(object{"directory": url}, given)
	if named, ok := options["directory"].(string); ok {
		options["directory"] = strings.ReplaceAll(named, "$directory", url)
	}
	client, err := iicp.NewClientJSON(text(options))
	return subject{client}, err
}

// calls run at the same time.
type calls struct {
	cancel   context.CancelFunc
	outcomes []chan object
}

func (c subject) start(step, scene object) *calls {
	ctx, cancel := context.WithCancel(context.Background())
	all := &calls{cancel: cancel}
	parallel, _ := step["parallel"].(float64)
	for range max(int(parallel), 1) {
		each := make(chan object, 1)
		all.outcomes = append(all.outcomes, each)
		go func() { each <- outcome(c.attempt(ctx, step, scene)) }()
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

func (c subject) attempt(ctx context.Context, step, scene object) (object, error) {
	place := func(id string) any {
		nodes, _ := scene["nodes"].([]any)
		if at := slices.IndexFunc(nodes, func(node any) bool { return node.(object)["node_id"] == id }); at >= 0 {
			return at
		}
		return nil
	}
	if options, ok := step["submit"]; ok {
		payload := text(object{"text": "canary"})
		if given, ok := step["payload"]; ok {
			payload = text(given)
		}
		if size, ok := step["payload_bytes"].(float64); ok {
			payload = text(object{"pad": strings.Repeat("x", int(size)-10)})
		}
		done, err := iicp.SubmitJSON(c.Client, ctx, text(options), []byte(payload))
		if err != nil {
			return nil, err
		}
		return object{"result": done.Result, "node": place(done.NodeID), "attempts": done.Attempts}, nil
	}
	if options, ok := step["chat"]; ok {
		reply, err := iicp.ChatJSON(c.Client, ctx, text(options))
		if err != nil {
			return nil, err
		}
		return object{"text": reply.Text, "node": place(reply.NodeID), "model": reply.Model, "usage": reply.Usage}, nil
	}
	nodes, err := iicp.DiscoverJSON(c.Client, ctx, text(step["discover"]))
	places := []any{}
	for _, node := range nodes {
		places = append(places, place(node.NodeID))
	}
	return object{"nodes": places}, err
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

func check(expect, got object, took time.Duration) error {
	message, _ := got["message"].(string)
	good := (expect["code"] == nil) == (got["code"] == nil) && !strings.Contains(message, "canary")
	for name, value := range expect {
		switch name {
		case "says":
			for _, part := range value.([]any) {
				good = good && strings.Contains(message, part.(string))
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
