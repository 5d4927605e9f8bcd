package iicp_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"iicp.network/go/iicp"
)

// inference answers chats by what they said, in the form of OpenAI.
func inference(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, `{"data":[{"id":"parrot"}]}`)
		return
	}
	var asked struct {
		Model    string
		Messages []struct{ Content string }
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	said := asked.Model + ": " + asked.Messages[len(asked.Messages)-1].Content
	_, _ = fmt.Fprintf(w, `{"choices":[{"message":{"role":"assistant","content":%q}}],"model":%q}`, said, asked.Model)
}

func TestABackendServesWithoutAHandler(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(inference))
	defer server.Close()
	directory := must(iicp.LoopbackDirectory())(t)
	defer directory.Close()
	options := iicp.NodeOptions{Directory: directory.URL(), Backend: &iicp.BackendOptions{URL: server.URL + "/v1"}}
	node := must(iicp.Serve(t.Context(), options, nil))(t)
	defer node.Close()
	client := must(iicp.NewClient(iicp.ClientOptions{Directory: directory.URL()}))(t)
	defer client.Close()

	found := must(client.Discover(t.Context(), iicp.Discover{Intent: iicp.IntentChat}))(t)
	if len(found) != 1 || fmt.Sprint(found[0].Models) != "[parrot]" {
		t.Errorf("the directory lists %v", found)
	}
	chat := iicp.UserChat("Hello, mesh.")
	chat.RuntimeIdentity = "disabled"
	if reply := must(client.Chat(t.Context(), chat))(t); reply.Text != "parrot: Hello, mesh." || reply.Model != "parrot" {
		t.Errorf("%q by %q", reply.Text, reply.Model)
	}
}

func TestANodeHasEitherAHandlerOrABackend(t *testing.T) {
	backend := &iicp.BackendOptions{URL: "http://127.0.0.1:1"}
	_, err := iicp.Serve(t.Context(), iicp.NodeOptions{Intents: []string{iicp.IntentChat}}, nil)
	wrong(t, err, iicp.ErrNullArg, "nothing that serves")
	_, err = iicp.Serve(t.Context(), iicp.NodeOptions{Backend: backend}, iicp.HandlerFunc(echo))
	wrong(t, err, iicp.ErrInvalidArg, "both a handler and a backend")
	_, err = iicp.Serve(t.Context(), iicp.NodeOptions{Backend: &iicp.BackendOptions{Kind: "abacus"}}, nil)
	wrong(t, err, iicp.ErrConfigInvalid, "openai_compat")
}
