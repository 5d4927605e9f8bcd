// Ask asks the mesh: go run iicp.network/go/iicp/examples/ask "What is the capital of France?" [DIRECTORY]
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"iicp.network/go/iicp"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: ask QUESTION [DIRECTORY]")
	}
	var options iicp.ClientOptions
	if len(os.Args) > 2 {
		options.Directory = os.Args[2]
	}
	client, err := iicp.NewClient(options)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	chat := iicp.UserChat(os.Args[1])
	chat.MaxTokens = 64
	reply, err := client.Chat(context.Background(), chat)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(reply.Text)
}
