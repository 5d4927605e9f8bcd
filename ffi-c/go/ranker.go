package iicp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// Ranker chooses among the nodes that a task may be sent to, after every rule has been applied: it cannot bring back one
// that was refused. It is called before each task, on a goroutine of its own, so also several times at once.
//
// No choice, nil, keeps the order. An error, or a panic, refuses the task before anything is sent: the call fails with
// [ErrRankerRefused], which says the error's text. The context is that of the call and ends with it; nobody hears a ranker
// any more that takes longer.
type Ranker func(ctx context.Context, request RankRequest) (*RankChoice, error)

// RankRequest is what a [Ranker] is asked: who could serve a task, without anything by which a node or a prompt could be
// told.
type RankRequest struct {
	// RequestRef names the task: the same for every question about it.
	RequestRef string `json:"request_ref"`
	// Intent is that of the task.
	Intent string `json:"intent"`
	// Candidates are in the order in which they would be asked.
	Candidates []Candidate `json:"candidates"`
}

// Candidate is what a [Ranker] is told of a node.
type Candidate struct {
	// CandidateRef is the name by which a choice names it: a digest, not the node's id.
	CandidateRef string `json:"candidate_ref"`
	// Models are those that the node serves.
	Models []string `json:"models"`
	// DirectoryScore is the directory's, 0 to 1.
	DirectoryScore float64 `json:"directory_score"`
	// Load is the share of its slots that are in use, 0 to 1; 0 if nobody says.
	Load float64 `json:"load"`
	// HealthLabel is how well the node is, in the directory's words, or empty.
	HealthLabel string `json:"health_label"`
	// DirectoryObservedReachable tells whether the directory has reached the node itself; nil if it does not say.
	DirectoryObservedReachable *bool `json:"directory_observed_reachable"`
	// SchemaVersion is always "iicp-candidate-evidence-v0".
	SchemaVersion string `json:"schema_version"`
}

// RankChoice is the candidate that is to be asked first.
type RankChoice struct {
	CandidateRef string
	// PolicyID is which policy chose; the receipt names it. 1 to 64 ASCII letters, digits, dots, dashes or underscores.
	PolicyID string
	// Exploration tells that it was chosen to learn about it, not because it is the best.
	Exploration bool
}

// ClientOption is what [NewClient] takes beside the options that every language has.
type ClientOption func(*clientSettings)

type clientSettings struct{ ranker Ranker }

// WithRanker has the application rank the candidates.
func WithRanker(ranker Ranker) ClientOption {
	return func(with *clientSettings) { with.ranker = ranker }
}

// rank answers the question of an operation.
func rank(ctx context.Context, ranker Ranker, e event) {
	// A question that is over needs no answer.
	_ = rankFinish(e.id, rankAnswer(ctx, ranker, e.json))
}

func rankAnswer(ctx context.Context, ranker Ranker, question []byte) string {
	choice, err := choose(ctx, ranker, question)
	var answer any
	switch {
	case err != nil:
		answer = map[string]string{"error": err.Error()}
	case choice != nil:
		mode := "normal"
		if choice.Exploration {
			mode = "exploration"
		}
		answer = map[string]string{"candidate_ref": choice.CandidateRef, "policy_id": choice.PolicyID, "mode": mode}
	}
	// Texts always have a JSON form.
	text, _ := json.Marshal(answer)
	return string(text)
}

// choose calls the ranker and contains its panic.
func choose(ctx context.Context, ranker Ranker, question []byte) (choice *RankChoice, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			choice, err = nil, fmt.Errorf("it panicked: %v", panicked)
		}
	}()
	if ranker == nil {
		return nil, errors.New("there is none; make the client with WithRanker")
	}
	var request RankRequest
	if err := read(question, &request); err != nil {
		return nil, err
	}
	return ranker(ctx, request)
}
