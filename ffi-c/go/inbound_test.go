package iicp_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"iicp.network/go/iicp"
)

func TestWhatACallerAsksForAndProvesReachesTheHandler(t *testing.T) {
	seen := make(chan *iicp.Inbound, 1)
	m := newMesh(t, iicp.NodeOptions{AccessToken: "known to few"}, func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
		seen <- task
		return echo(ctx, task)
	})
	asked := `{"task_id":"task-1","intent":"` + iicp.IntentChat + `","payload":{"messages":[]},"constraints":` +
		`{"timeout_ms":9000,"priority":"high","model":"small","max_tokens":12},"source_node_id":"node-9",` +
		`"auth":{"node_token":"known to few"}}`
	request := must(http.NewRequestWithContext(t.Context(), http.MethodPost, m.node.URL()+"/v1/task", strings.NewReader(asked)))(t)
	trace := "00-" + strings.Repeat("4b", 16)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Traceparent", trace+"-0101010101010101-01")
	request.Header.Set("Tracestate", "vendor=1")
	answer := must(http.DefaultClient.Do(request))(t)
	defer http.DefaultClient.CloseIdleConnections()
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
	task := <-seen
	if task.Priority != "high" || task.Model != "small" || task.MaxTokens != 12 {
		t.Errorf("asked for %q, %q and %d", task.Priority, task.Model, task.MaxTokens)
	}
	if task.SourceNodeID != "node-9" || !task.Verified || task.VerifiedNodeID != "" {
		t.Errorf("the caller is %q, %t, %q", task.SourceNodeID, task.Verified, task.VerifiedNodeID)
	}
	if !strings.HasPrefix(task.Traceparent, trace) || task.Tracestate != "vendor=1" {
		t.Errorf("the trace is %q, %q", task.Traceparent, task.Tracestate)
	}
	if left := time.Until(task.Deadline); left <= 0 || left > 9*time.Second {
		t.Errorf("there is %s left", left)
	}
}
