package iicp_test

import (
	"context"
	"fmt"
	"log"

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
