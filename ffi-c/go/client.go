package iicp

import (
	"context"
	"encoding/json"
	"time"
)

// Client finds nodes and sends tasks to them. Any number of goroutines may use one.
type Client struct {
	id    uint64
	queue *queue
}

// NodeInfo is a node as the directory shows it.
type NodeInfo struct {
	NodeID string `json:"node_id"`
	// Endpoint is the node's base URL.
	Endpoint string `json:"endpoint"`
	// Score is the directory's, 0 to 1; 0 if it gave none.
	Score float64 `json:"score"`
	// Available tells whether the node takes tasks now.
	Available bool `json:"available"`
	// Region is where the node says it is, or empty.
	Region string `json:"region"`
	// Models are those that the node serves.
	Models []string `json:"models"`
	// Load is the share of its slots that are in use, 0 to 1; nil if the directory does not know.
	Load *float64 `json:"load"`
	// ReputationScore is 0 to 1; nil if the directory does not know.
	ReputationScore *float64 `json:"reputation_score"`
	// CxPublicKey is the key to seal tasks to, as the directory shows it: JSON, or nil.
	CxPublicKey json.RawMessage `json:"cx_public_key"`
}

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
}

// Timings is where the time went.
type Timings struct {
	// Discover is the time until there was a node to send the task to.
	Discover time.Duration
	// Total is the time of the whole call.
	Total time.Duration
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
			for name, value := range members(value) {
				switch name {
				case "discover":
					result.Timings.Discover = value.milliseconds()
				case "total":
					result.Timings.Total = value.milliseconds()
				}
			}
		}
	}
	return result
}

// Usage is how many tokens a chat took, as the provider counted.
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
	// Usage is nil if the provider did not say.
	Usage *Usage
	// Model is the model that answered, or empty if the provider did not say.
	Model string
}

// UserChat is a chat of one message by the user.
func UserChat(content string) Chat {
	return Chat{Messages: []ChatMessage{{Role: "user", Content: content}}}
}

// NewClient makes a client. Nothing is sent yet. Close it when it is no longer needed.
func NewClient(opts ClientOptions) (*Client, error) {
	text, err := options(opts)
	if err != nil {
		return nil, err
	}
	return newClient(text)
}

func newClient(options string) (*Client, error) {
	runtime, err := engine()
	if err != nil {
		return nil, err
	}
	id, err := clientNew(runtime, options)
	if err != nil {
		return nil, err
	}
	queue, err := newQueue("client", nil)
	if err != nil {
		clientClose(id)
		return nil, err
	}
	return &Client{id: id, queue: queue}, nil
}

// Close ends the client: what it is doing ends with [ErrClosed].
func (c *Client) Close() error {
	clientClose(c.id)
	c.queue.close()
	return nil
}

// Discover asks the directory for nodes, best first.
func (c *Client) Discover(ctx context.Context, query Discover) ([]NodeInfo, error) {
	text, err := options(query)
	if err != nil {
		return nil, err
	}
	return c.discover(ctx, text)
}

func (c *Client) discover(ctx context.Context, query string) ([]NodeInfo, error) {
	done, err := c.queue.call(ctx, func(tag uint64) (uint64, error) { return discover(c.id, c.queue.id, query, tag) })
	if err != nil {
		return nil, err
	}
	var nodes []NodeInfo
	return nodes, read(done.json, &nodes)
}

// Submit sends a task to a node and returns its result.
func (c *Client) Submit(ctx context.Context, task Task) (*TaskResult, error) {
	text, err := options(task)
	if err != nil {
		return nil, err
	}
	return c.submit(ctx, text, task.Payload)
}

func (c *Client) submit(ctx context.Context, task string, payload []byte) (*TaskResult, error) {
	done, err := c.queue.call(ctx, func(tag uint64) (uint64, error) {
		return submit(c.id, c.queue.id, task, payload, tag)
	})
	if err != nil {
		return nil, err
	}
	result := taskResult(done)
	return &result, nil
}

// Chat sends a chat to a node and returns the answer. A simple one is Chat(ctx, iicp.UserChat("Hello")).
func (c *Client) Chat(ctx context.Context, messages Chat) (*ChatReply, error) {
	text, err := options(messages)
	if err != nil {
		return nil, err
	}
	return c.chat(ctx, text)
}

func (c *Client) chat(ctx context.Context, messages string) (*ChatReply, error) {
	done, err := c.queue.call(ctx, func(tag uint64) (uint64, error) { return chat(c.id, c.queue.id, messages, tag) })
	if err != nil {
		return nil, err
	}
	reply := &ChatReply{TaskResult: taskResult(done)}
	for name, value := range members(done.json) {
		switch name {
		case "text":
			reply.Text = value.text()
		case "usage":
			err = read(value, &reply.Usage)
		case "model":
			reply.Model = value.text()
		}
	}
	return reply, err
}
