package iicp

import "context"

// Complete has a model complete a text.
func (c *Client) Complete(ctx context.Context, ask Completion) (*CompletionReply, error) {
	return infer(ctx, c, completion, ask, nil, completionReply)
}

// Embed turns texts into vectors.
func (c *Client) Embed(ctx context.Context, ask Embedding) (*EmbeddingReply, error) {
	return infer(ctx, c, embedding, ask, nil, embeddingReply)
}

// Transcribe writes down what is said in a sound file.
func (c *Client) Transcribe(ctx context.Context, ask Transcription) (*TranscriptionReply, error) {
	return infer(ctx, c, transcription, ask, ask.Audio, transcriptionReply)
}

// Speak has a text spoken.
func (c *Client) Speak(ctx context.Context, ask Speech) (*SpeechReply, error) {
	return infer(ctx, c, speech, ask, nil, speechReply)
}

// Moderate has texts judged.
func (c *Client) Moderate(ctx context.Context, ask Moderation) (*ModerationReply, error) {
	return infer(ctx, c, moderation, ask, nil, moderationReply)
}

// infer runs a model task; what it is asked besides the options is the body.
func infer[R any](ctx context.Context, c *Client, kind inference, ask any, body []byte, from func(event) (*R, error)) (*R, error) {
	text, err := options(ask)
	if err != nil {
		return nil, err
	}
	return inferJSON(ctx, c, kind, text, body, from)
}

func inferJSON[R any](ctx context.Context, c *Client, kind inference, ask string, body []byte, from func(event) (*R, error)) (*R, error) {
	done, err := c.queue.call(ctx, func(tag uint64) (uint64, error) {
		return startInference(c.id, c.queue.id, kind, ask, body, tag)
	})
	return reply(done, err, from)
}
