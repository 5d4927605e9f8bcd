package iicp

import (
	"fmt"
	"io"
	"log/slog"
)

// Ptr is a pointer to a value, for options whose zero means something else than their absence: Temperature: iicp.Ptr(0.0).
func Ptr[T any](value T) *T { return &value }

// Secret is a text that nothing prints: package fmt, a log and package json show "<secret>" in its stead. Package json
// reads it as it is.
type Secret string

const hidden = "<secret>"

// String hides the secret.
func (s Secret) String() string { return hidden }

// Format hides the secret from every verb.
func (s Secret) Format(to fmt.State, _ rune) { _, _ = io.WriteString(to, hidden) }

// MarshalText hides the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// LogValue hides the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// ContentPart is a part of a message that is more than text: Content: []iicp.ContentPart{iicp.TextPart("What is this?"),
// iicp.ImagePart("https://example.com/cat.png")}.
type ContentPart struct {
	// Type is one of text, image_url, input_audio, and tells which of the others is there.
	Type       string      `json:"type"`
	Text       string      `json:"text,omitempty"`
	ImageURL   *ImageURL   `json:"image_url,omitempty"`
	InputAudio *InputAudio `json:"input_audio,omitempty"`
}

// ImageURL is a picture in a message.
type ImageURL struct {
	// URL is where it is: an https: or a data: URL. The provider fetches it, the library does not.
	URL string `json:"url"`
	// Detail is how closely it is looked at: auto, low or high; or empty.
	Detail string `json:"detail,omitempty"`
}

// InputAudio is sound in a message.
type InputAudio struct {
	// Data is the sound file.
	Data []byte `json:"data"`
	// Format is its format, such as wav or mp3.
	Format string `json:"format"`
}

// TextPart is text as a part of a message.
func TextPart(text string) ContentPart { return ContentPart{Type: "text", Text: text} }

// ImagePart is a picture as a part of a message.
func ImagePart(url string) ContentPart {
	return ContentPart{Type: "image_url", ImageURL: &ImageURL{URL: url}}
}

// AudioPart is sound as a part of a message.
func AudioPart(data []byte, format string) ContentPart {
	return ContentPart{Type: "input_audio", InputAudio: &InputAudio{Data: data, Format: format}}
}
