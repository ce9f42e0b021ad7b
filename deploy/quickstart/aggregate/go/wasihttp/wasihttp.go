// Package wasihttp is an HTTP client for programs built with GOOS=wasip1, on the wasi-http functions that Dapr's
// bindings.wasm and sandboxd give to core modules. Requests run at once: Get starts one, Wait waits for its answer.
package wasihttp

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"
)

//go:wasmimport types new-fields
func newFields(ptr unsafe.Pointer, length uint32) uint32

//go:wasmimport types new-outgoing-request
func newOutgoingRequest(method uint32, methodPtr unsafe.Pointer, methodLen uint32, pathPtr unsafe.Pointer,
	pathLen uint32, queryPtr unsafe.Pointer, queryLen uint32, schemeIsSome uint32, scheme uint32,
	schemePtr unsafe.Pointer, schemeLen uint32, authorityPtr unsafe.Pointer, authorityLen uint32,
	headers uint32) uint32

//go:wasmimport types future-incoming-response-get
func futureIncomingResponseGet(future uint32, out unsafe.Pointer)

//go:wasmimport types incoming-response-status
func incomingResponseStatus(response uint32) uint32

//go:wasmimport types incoming-response-consume
func incomingResponseConsume(response uint32, out unsafe.Pointer)

//go:wasmimport types drop-incoming-response
func dropIncomingResponse(response uint32)

//go:wasmimport streams read
func streamRead(stream uint32, length uint64, out unsafe.Pointer)

//go:wasmimport streams drop-input-stream
func dropInputStream(stream uint32)

//go:wasmimport default-outgoing-HTTP handle
func handle(request, hasOptions, hasConnect, connect, hasFirst, first, hasBetween, between uint32) uint32

// kept holds what the host was given until it was read: the collector does not see the host's pointers.
var kept = map[uint32][]byte{}

//go:wasmexport cabi_realloc
func cabiRealloc(old, oldSize, align, size uint32) uint32 {
	block := make([]byte, size+align)
	at := uint32(uintptr(unsafe.Pointer(&block[0])))
	at = (at + align - 1) / align * align
	kept[at] = block
	return at
}

func take(ptr, length uint32) []byte {
	if length == 0 {
		return nil
	}
	data := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(uintptr(ptr))), length)...)
	delete(kept, ptr)
	return data
}

func text(s string) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.StringData(s)), uint32(len(s))
}

// Pending is a request under way.
type Pending struct {
	url    string
	future uint32
}

// Get starts a GET request. It does not wait.
func Get(url string) (*Pending, error) {
	scheme := uint32(0)
	rest, found := strings.CutPrefix(url, "http://")
	if !found {
		if rest, found = strings.CutPrefix(url, "https://"); !found {
			return nil, fmt.Errorf("%s: neither http nor https", url)
		}
		scheme = 1
	}
	at := strings.IndexAny(rest+"/", "/?")
	authorityPtr, authorityLen := text(rest[:at])
	pathPtr, pathLen := text(rest[at:])
	request := newOutgoingRequest(0, nil, 0, pathPtr, pathLen, nil, 0, 1, scheme, nil, 0, authorityPtr, authorityLen,
		newFields(nil, 0))
	return &Pending{url, handle(request, 0, 0, 0, 0, 0, 0, 0)}, nil
}

// Wait gives the status and the body of the answer.
func (p *Pending) Wait() (int, []byte, error) {
	var got [3]uint32
	futureIncomingResponseGet(p.future, unsafe.Pointer(&got))
	if got[1] != 0 {
		// The ABI has a number for it and no text; the server's log has both.
		return 0, nil, fmt.Errorf("%s: the request failed (error %d)", p.url, got[2])
	}
	response := got[2]
	defer dropIncomingResponse(response)
	status := int(incomingResponseStatus(response))
	var opened [2]uint32
	incomingResponseConsume(response, unsafe.Pointer(&opened))
	if opened[0] != 0 {
		return status, nil, errors.New(p.url + ": no body")
	}
	defer dropInputStream(opened[1])
	var body []byte
	for {
		var piece [4]uint32
		streamRead(opened[1], 65536, unsafe.Pointer(&piece))
		if piece[0] != 0 {
			return status, nil, errors.New(p.url + ": the body broke off")
		}
		body = append(body, take(piece[1], piece[2])...)
		if piece[3] == 0 {
			return status, body, nil
		}
	}
}
