// Command gojson decodes binding requests with Go's encoding/json, for comparison with sandboxd.front.gojson.
//
// Input frames: a flag byte (1: the body goes on beyond a limit), a little-endian uint32 length, the body.
// Output frames: a little-endian uint32 length, a JSON object.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"

	"gojson/http"
)

type answer struct {
	Error     string            `json:"error"`
	Operation string            `json:"operation"`
	Metadata  map[string]string `json:"metadata"`
	Data      []byte            `json:"data"`
}

type tooLarge struct{}

func (tooLarge) Read([]byte) (int, error) { return 0, errors.New("stream too large") }

func decode(body io.Reader) answer {
	var request http.OutputBindingRequest
	if err := json.NewDecoder(body).Decode(&request); err != nil {
		return answer{Error: err.Error()}
	}
	data, err := json.Marshal(request.Data)
	if err != nil {
		return answer{Error: "marshal: " + err.Error()}
	}
	return answer{Operation: request.Operation, Metadata: request.Metadata, Data: data}
}

func main() {
	in, out := bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)
	head := make([]byte, 5)
	for {
		if _, err := io.ReadFull(in, head); err == io.EOF {
			break
		} else if err != nil {
			log.Fatal(err)
		}
		body := make([]byte, binary.LittleEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(in, body); err != nil {
			log.Fatal(err)
		}
		var reader io.Reader = bytes.NewReader(body)
		if head[0] == 1 {
			reader = io.MultiReader(reader, tooLarge{})
		}
		reply, err := json.Marshal(decode(reader))
		if err != nil {
			log.Fatal(err)
		}
		if err := binary.Write(out, binary.LittleEndian, uint32(len(reply))); err != nil {
			log.Fatal(err)
		}
		if _, err := out.Write(reply); err != nil {
			log.Fatal(err)
		}
	}
	if err := out.Flush(); err != nil {
		log.Fatal(err)
	}
}
