package iicp_test

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"slices"

	"iicp.network/go/iicp"
)

// A directory, a node and a client in one program.
func Example() {
	ctx := context.Background()
	mesh, err := iicp.LoopbackDirectory()
	if err != nil {
		log.Fatal(err)
	}
	defer mesh.Close()

	// A node: what it serves, and the function that does.
	node, err := iicp.Serve(ctx, iicp.NodeOptions{Intents: []string{iicp.IntentChat}, Directory: mesh.URL()},
		iicp.HandlerFunc(func(ctx context.Context, task *iicp.Inbound) (iicp.Reply, error) {
			return iicp.ChatText("Hello from Go!")
		}))
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()

	// A client: where the directory is.
	client, err := iicp.NewClient(iicp.ClientOptions{Directory: mesh.URL()})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	reply, err := client.Chat(ctx, iicp.UserChat("Hello, mesh."))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.Text)
	// Output: Hello from Go!
}

// Model tasks have calls and replies of their own, here to a node of this process; and a client may say who may be sent
// its tasks, and choose among those who may.
func ExampleClient_Embed() {
	ctx := context.Background()
	mesh, err := iicp.LoopbackDirectory()
	if err != nil {
		log.Fatal(err)
	}
	defer mesh.Close()
	options := iicp.NodeOptions{Intents: []string{iicp.IntentEmbedding}, Directory: mesh.URL(), Region: "eu-central"}
	node, err := iicp.Serve(ctx, options, iicp.HandlerFunc(func(context.Context, *iicp.Inbound) (iicp.Reply, error) {
		return iicp.JSONReply(map[string]any{"data": []any{map[string]any{"embedding": []float32{0.5, 1}}}})
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer node.Close()

	// The least loaded first, of those in the European Union.
	ranker := func(ctx context.Context, asked iicp.RankRequest) (*iicp.RankChoice, error) {
		best := slices.MinFunc(asked.Candidates, func(a, b iicp.Candidate) int { return cmp.Compare(a.Load, b.Load) })
		return &iicp.RankChoice{CandidateRef: best.CandidateRef, PolicyID: "least-loaded"}, nil
	}
	policy := &iicp.RoutingPolicy{Profile: "eu_restricted"}
	client, err := iicp.NewClient(iicp.ClientOptions{Directory: mesh.URL(), RoutingPolicy: policy}, iicp.WithRanker(ranker))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	reply, err := client.Embed(ctx, iicp.Embedding{Input: []string{"Hello, mesh."}})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.Vectors, reply.Receipt.SelectionProfile)
	// Output: [[0.5 1]] external_ranker/least-loaded/normal
}
