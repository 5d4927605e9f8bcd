package iicp

import (
	"context"
	"encoding/json"
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
	// TransportEndpoint is where the node takes native frames, iicp:// or iicpsec:// with host and port, or empty.
	TransportEndpoint string `json:"transport_endpoint"`
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
	// HealthLabel is how well the node is, in the directory's words, or empty.
	HealthLabel string `json:"health_label"`
	// DirectoryObservedReachable tells whether the directory has reached the node itself; nil if it does not say.
	DirectoryObservedReachable *bool `json:"directory_observed_reachable"`
	// BrowserUsable tells whether a browser can call the node; nil if the directory does not say.
	BrowserUsable *bool `json:"browser_usable"`
	// NodePolicyManifest is what the node promises about the tasks it is given, and how firmly: JSON, or nil.
	NodePolicyManifest json.RawMessage `json:"node_policy_manifest"`
}

// UserChat is a chat of one message by the user.
func UserChat(content string) Chat {
	return Chat{Messages: []ChatMessage{{Role: "user", Content: content}}}
}

// NewClient makes a client. Nothing is sent yet. Close it when it is no longer needed.
func NewClient(opts ClientOptions, more ...ClientOption) (*Client, error) {
	var with clientSettings
	for _, set := range more {
		set(&with)
	}
	text, err := options(struct {
		ClientOptions
		// As itself: who alone may read it is the library.
		NodeToken      string `json:"node_token,omitempty"`
		ExternalRanker bool   `json:"external_ranker,omitempty"`
	}{opts, string(opts.NodeToken), opts.ExternalRanker || with.ranker != nil})
	if err != nil {
		return nil, err
	}
	return newClient(text, with.ranker)
}

func newClient(options string, ranker Ranker) (*Client, error) {
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
	queue.ranker = ranker
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
	return reply(done, err, chatReply)
}
