package iicp

import (
	"encoding/json"
	"time"
)

// TaskResult is what became of a task.
type TaskResult struct {
	TaskID string
	// NodeID is the node that ran the task.
	NodeID string
	// Result is what the node's handler returned: JSON.
	Result json.RawMessage
	// Attempts is how often the task was sent.
	Attempts int
	// Traceparent is the W3C trace context that the task was sent with.
	Traceparent string
	Timings     Timings
	// Receipt is how the node was chosen.
	Receipt RoutingReceipt
	// Sealed tells whether task and answer were sealed.
	Sealed bool
}

// Timings is where the time went.
type Timings struct {
	// Discover is the time of asking the directory; 0 if a known route was used.
	Discover time.Duration
	// Select is the time of choosing among the candidates, the application's ranker included.
	Select time.Duration
	// Connect is the time of connecting to the node that answered; 0 if a connection was there.
	Connect time.Duration
	// FirstByte is the time from sending the task, over an open connection, to the first byte of the answer.
	FirstByte time.Duration
	// Overhead is the library's own work: what is left of the total after waiting for directory, ranker, nodes and pauses.
	Overhead time.Duration
	// Total is the time of the whole call.
	Total time.Duration
}

// RoutingReceipt is how the node of a task was chosen, without anything private: no prompt, answer, endpoint or token.
type RoutingReceipt struct {
	// ReceiptVersion is always "iicp-routing-receipt-v1".
	ReceiptVersion string `json:"receipt_version"`
	// SelectionProfile is what chose: a strategy, "directory_ticket_v1" or "external_ranker/<policy>/<mode>".
	SelectionProfile string `json:"selection_profile"`
	// EligibleCandidateCount is how many nodes the task could have been sent to.
	EligibleCandidateCount int `json:"eligible_candidate_count"`
	// SelectedNodeIDPrefix is the first eight characters of the node's id.
	SelectedNodeIDPrefix string `json:"selected_node_id_prefix"`
	// DispatchTicketIDPrefix is the first twelve characters of the ticket's id, or empty if the route came without one.
	DispatchTicketIDPrefix string `json:"dispatch_ticket_id_prefix,omitempty"`
	// ProfileNegotiation is what the directory said about the profile that was asked for, or empty.
	ProfileNegotiation string `json:"profile_negotiation,omitempty"`
	// Redaction is what was left out: always "prompt_response_endpoint_token_excluded".
	Redaction string `json:"redaction"`
}

func taskResult(done event) TaskResult {
	result := TaskResult{Result: done.body}
	for name, value := range members(done.json) {
		switch name {
		case "task_id":
			result.TaskID = value.text()
		case "node_id":
			result.NodeID = value.text()
		case "attempts":
			result.Attempts = int(value.integer())
		case "traceparent":
			result.Traceparent = value.text()
		case "timings_ms":
			result.Timings = timings(value)
		case "receipt":
			result.Receipt = receipt(value)
		case "sealed":
			result.Sealed = value.truth()
		}
	}
	return result
}

func timings(object member) (t Timings) {
	for name, value := range members(object) {
		switch name {
		case "discover":
			t.Discover = value.milliseconds()
		case "select":
			t.Select = value.milliseconds()
		case "connect":
			t.Connect = value.milliseconds()
		case "first_byte":
			t.FirstByte = value.milliseconds()
		case "overhead":
			t.Overhead = value.milliseconds()
		case "total":
			t.Total = value.milliseconds()
		}
	}
	return t
}

func receipt(object member) (r RoutingReceipt) {
	for name, value := range members(object) {
		switch name {
		case "receipt_version":
			r.ReceiptVersion = value.text()
		case "selection_profile":
			r.SelectionProfile = value.text()
		case "eligible_candidate_count":
			r.EligibleCandidateCount = int(value.integer())
		case "selected_node_id_prefix":
			r.SelectedNodeIDPrefix = value.text()
		case "dispatch_ticket_id_prefix":
			r.DispatchTicketIDPrefix = value.text()
		case "profile_negotiation":
			r.ProfileNegotiation = value.text()
		case "redaction":
			r.Redaction = value.text()
		}
	}
	return r
}

// Usage is how many tokens a call of a model took, as the provider counted.
type Usage struct {
	PromptTokens     uint64 `json:"prompt_tokens"`
	CompletionTokens uint64 `json:"completion_tokens"`
	TotalTokens      uint64 `json:"total_tokens"`
}

// ChatReply is the answer to a chat.
type ChatReply struct {
	TaskResult
	// Text is the answer; what else the provider replied stands in Result.
	Text string
	// ToolCalls are the tools that the model wants called, as it wrote them.
	ToolCalls []map[string]any
	// FinishReason is why the answer ends, such as "stop", "length" or "tool_calls", or empty.
	FinishReason string
	// Usage is nil if the provider did not say.
	Usage *Usage
	// Model is the model that answered, or empty if the provider did not say.
	Model string
}

// CompletionReply is the answer to a completion.
type CompletionReply struct {
	TaskResult
	// Text is the text that follows; what else the provider replied stands in Result.
	Text string
	// FinishReason is why it ends, such as "stop" or "length", or empty.
	FinishReason string
	// Usage is nil if the provider did not say.
	Usage *Usage
	// Model is the model that answered, or empty if the provider did not say.
	Model string
}

// EmbeddingReply holds the vectors of texts.
type EmbeddingReply struct {
	TaskResult
	// Vectors holds one vector for each text, in their order.
	Vectors [][]float32
	// Usage is nil if the provider did not say.
	Usage *Usage
	// Model is the model that answered, or empty if the provider did not say.
	Model string
}

// TranscriptionReply is what was said in a sound file.
type TranscriptionReply struct {
	TaskResult
	// Text is what was said.
	Text string
	// Language is the language, or empty if the provider did not say.
	Language string
}

// SpeechReply is a spoken text. Its Result is nil: all of it stands here.
type SpeechReply struct {
	TaskResult
	// Audio is the sound file.
	Audio []byte
	// ContentType is its media type, such as "audio/wav", or empty if the provider did not say.
	ContentType string
	// Format is its format, such as "wav", or empty if the provider did not say.
	Format string
}

// ModerationReply is how texts were judged.
type ModerationReply struct {
	TaskResult
	// Results holds one judgement for each text, in their order.
	Results []Judgement
	// Model is the model that judged, or empty if the provider did not say.
	Model string
}

// Judgement is how one text was judged.
type Judgement struct {
	// Flagged tells whether it breaks a rule at all.
	Flagged bool `json:"flagged"`
	// Categories tells which rules it breaks.
	Categories map[string]bool `json:"categories"`
	// CategoryScores tells how surely it breaks each.
	CategoryScores map[string]float64 `json:"category_scores"`
}

// reply makes a typed reply of the last event of an operation that succeeded.
func reply[R any](done event, err error, from func(event) (*R, error)) (*R, error) {
	if err != nil {
		return nil, err
	}
	return from(done)
}

func chatReply(done event) (r *ChatReply, err error) {
	r = &ChatReply{TaskResult: taskResult(done)}
	for name, value := range members(done.json) {
		switch {
		case err != nil:
			return nil, err
		case name == "text":
			r.Text = value.text()
		case name == "tool_calls" && string(value) != "[]":
			err = read(value, &r.ToolCalls)
		case name == "finish_reason":
			r.FinishReason = value.text()
		case name == "usage":
			err = read(value, &r.Usage)
		case name == "model":
			r.Model = value.text()
		}
	}
	return r, err
}

// fields are those of a reply that only models give, read all at once: they are few, and their text long.
type fields struct {
	Text         string      `json:"text"`
	FinishReason string      `json:"finish_reason"`
	Usage        *Usage      `json:"usage"`
	Model        string      `json:"model"`
	Vectors      [][]float32 `json:"vectors"`
	Language     string      `json:"language"`
	ContentType  string      `json:"content_type"`
	Format       string      `json:"format"`
	Results      []Judgement `json:"results"`
}

func completionReply(done event) (*CompletionReply, error) {
	var f fields
	err := read(done.json, &f)
	return &CompletionReply{taskResult(done), f.Text, f.FinishReason, f.Usage, f.Model}, err
}

func embeddingReply(done event) (*EmbeddingReply, error) {
	var f fields
	err := read(done.json, &f)
	return &EmbeddingReply{taskResult(done), f.Vectors, f.Usage, f.Model}, err
}

func transcriptionReply(done event) (*TranscriptionReply, error) {
	var f fields
	err := read(done.json, &f)
	return &TranscriptionReply{taskResult(done), f.Text, f.Language}, err
}

func speechReply(done event) (*SpeechReply, error) {
	var f fields
	err := read(done.json, &f)
	result := taskResult(done)
	result.Result = nil
	return &SpeechReply{result, done.body, f.ContentType, f.Format}, err
}

func moderationReply(done event) (*ModerationReply, error) {
	var f fields
	err := read(done.json, &f)
	return &ModerationReply{taskResult(done), f.Results, f.Model}, err
}
