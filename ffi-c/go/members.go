package iicp

import (
	"bytes"
	"encoding/json"
	"iter"
	"strconv"
	"time"
)

// members goes over an object as the library writes it: no spaces, and names that need no escapes. Package json would
// need ten times as long for what comes with every task.
func members(object []byte) iter.Seq2[string, member] {
	return func(yield func(string, member) bool) {
		rest, found := bytes.CutPrefix(object, []byte(`{"`))
		for found {
			var name, value []byte
			if name, rest, found = bytes.Cut(rest, []byte(`":`)); !found {
				return
			}
			end := valueEnd(rest)
			value, rest = rest[:end], rest[end:]
			if !yield(string(name), value) {
				return
			}
			rest, found = bytes.CutPrefix(rest, []byte(`,"`))
		}
	}
}

// valueEnd is where the value ends that a text begins with.
func valueEnd(text []byte) int {
	depth, quoted := 0, false
	for at := 0; at < len(text); at++ {
		switch char := text[at]; {
		case quoted && char == '\\':
			at++
		case char == '"':
			quoted = !quoted
		case quoted:
		case char == '{' || char == '[':
			depth++
		case depth == 0 && (char == ',' || char == '}'):
			return at
		case char == '}' || char == ']':
			depth--
		}
	}
	return len(text)
}

// member is the JSON of a value. What is null or of another type is the zero value.
type member []byte

func (m member) text() (text string) {
	if inside := len(m) - 1; inside > 0 && m[0] == '"' && bytes.IndexByte(m, '\\') < 0 {
		return string(m[1:inside])
	}
	_ = json.Unmarshal(m, &text)
	return text
}

func (m member) integer() int64 {
	number, _ := strconv.ParseInt(string(m), 10, 64)
	return number
}

func (m member) truth() bool { return string(m) == "true" }

// milliseconds is a time that the library wrote as a number of milliseconds.
func (m member) milliseconds() time.Duration {
	number, _ := strconv.ParseFloat(string(m), 64)
	return time.Duration(number * float64(time.Millisecond))
}
