// Calls the binding `multi` with Dapr's Go SDK. Prints one JSON object of answers.
package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"time"

	dapr "github.com/dapr/go-sdk/client"
)

func main() {
	out := map[string]any{}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client, err := dapr.NewClient()
	must(err)
	out["ready"] = true
	call := func(data []byte, metadata map[string]string) ([]byte, error) {
		request := &dapr.InvokeBindingRequest{Name: "multi", Operation: "execute", Data: data, Metadata: metadata}
		answer, err := client.InvokeBinding(ctx, request)
		if err != nil {
			return nil, err
		}
		return answer.Data, nil
	}
	data, err := call([]byte("\xff\x00hello"), nil)
	must(err)
	out["bytes"] = hex.EncodeToString(data)
	data, err = call([]byte("text"), nil)
	must(err)
	out["text"] = string(data)
	data, err = call([]byte(`{"a":1}`), nil)
	must(err)
	out["object"] = json.RawMessage(data)
	data, err = call([]byte("x"), map[string]string{"args": "dump,a"})
	must(err)
	out["metadata"] = string(data)
	data, err = call([]byte(strings.Repeat("x", 3<<20)), nil)
	must(err)
	out["large"] = len(data)
	_, err = call(nil, map[string]string{"args": "exit,3"})
	out["error"] = err.Error()
	metadata, err := client.GetMetadata(ctx)
	must(err)
	out["id"] = metadata.ID
	must(client.SetMetadata(ctx, "sdk", "go"))
	client.Close()
	os.Setenv("DAPR_API_TOKEN", "wrong")
	stranger, err := dapr.NewClientWithPort(os.Getenv("DAPR_GRPC_PORT"))
	must(err)
	_, err = stranger.InvokeBinding(ctx, &dapr.InvokeBindingRequest{Name: "multi", Operation: "execute"})
	out["token"] = err.Error()
	must(json.NewEncoder(os.Stdout).Encode(out))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
