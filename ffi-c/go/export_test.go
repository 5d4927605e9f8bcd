package iicp

import "context"

// The same calls with options as text: the case table has some that Go's types cannot express.
func NewClientJSON(options string, ranker ...Ranker) (*Client, error) {
	return newClient(options, append(ranker, nil)[0])
}

var (
	DiscoverJSON = (*Client).discover
	SubmitJSON   = (*Client).submit
	ChatJSON     = (*Client).chat
	StreamJSON   = (*Client).stream
)

// InferJSON runs a model task by the name of its kind; the reply is one of the types of replies.
func InferJSON(c *Client, ctx context.Context, kind, ask string, body []byte) (any, error) {
	switch kind {
	case "completion":
		return inferJSON(ctx, c, completion, ask, body, completionReply)
	case "embedding":
		return inferJSON(ctx, c, embedding, ask, body, embeddingReply)
	case "transcription":
		return inferJSON(ctx, c, transcription, ask, body, transcriptionReply)
	case "speech":
		return inferJSON(ctx, c, speech, ask, body, speechReply)
	}
	return inferJSON(ctx, c, moderation, ask, body, moderationReply)
}
