// fetch URL...: GETs every URL at once and prints `STATUS BYTES` of each in order; then all headers and the body of
// the last. fetch -post URL: POSTs stdin and prints the same. Exit code 3: a request failed.
//
// The imports are Dapr's wasi-http by hand; what a Go program built with GOOS=wasip1 needs on top is cabi_realloc.
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unsafe"
)

//go:wasmimport types new-fields
func newFields(ptr unsafe.Pointer, length uint32) uint32

//go:wasmimport types fields-entries
func fieldsEntries(fields uint32, out unsafe.Pointer)

//go:wasmimport types drop-fields
func dropFields(fields uint32)

//go:wasmimport types new-outgoing-request
func newOutgoingRequest(method uint32, methodPtr unsafe.Pointer, methodLen uint32, pathPtr unsafe.Pointer,
	pathLen uint32, queryPtr unsafe.Pointer, queryLen uint32, schemeIsSome uint32, scheme uint32,
	schemePtr unsafe.Pointer, schemeLen uint32, authorityPtr unsafe.Pointer, authorityLen uint32,
	headers uint32) uint32

//go:wasmimport types outgoing-request-write
func outgoingRequestWrite(request uint32, out unsafe.Pointer)

//go:wasmimport types future-incoming-response-get
func futureIncomingResponseGet(future uint32, out unsafe.Pointer)

//go:wasmimport types incoming-response-status
func incomingResponseStatus(response uint32) uint32

//go:wasmimport types incoming-response-headers
func incomingResponseHeaders(response uint32) uint32

//go:wasmimport types incoming-response-consume
func incomingResponseConsume(response uint32, out unsafe.Pointer)

//go:wasmimport types drop-incoming-response
func dropIncomingResponse(response uint32)

//go:wasmimport streams read
func streamRead(stream uint32, length uint64, out unsafe.Pointer)

//go:wasmimport streams write
func streamWrite(stream uint32, ptr unsafe.Pointer, length uint32, out unsafe.Pointer)

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

func start(method uint32, url string, body []byte) uint32 {
	scheme := uint32(0)
	rest, found := strings.CutPrefix(url, "http://")
	if !found {
		rest, scheme = strings.TrimPrefix(url, "https://"), 1
	}
	at := strings.IndexAny(rest+"/", "/?")
	authority, path := rest[:at], rest[at:]
	authorityPtr, authorityLen := text(authority)
	pathPtr, pathLen := text(path)
	request := newOutgoingRequest(method, nil, 0, pathPtr, pathLen, nil, 0, 1, scheme, nil, 0, authorityPtr,
		authorityLen, newFields(nil, 0))
	if body != nil {
		var out [2]uint32
		outgoingRequestWrite(request, unsafe.Pointer(&out))
		stream := out[1]
		streamWrite(stream, unsafe.Pointer(unsafe.SliceData(body)), uint32(len(body)), unsafe.Pointer(&out))
		if out[0] != 0 {
			os.Exit(6)
		}
	}
	return handle(request, 0, 0, 0, 0, 0, 0, 0)
}

func finish(future uint32) (uint32, []string, []byte) {
	var got [3]uint32
	futureIncomingResponseGet(future, unsafe.Pointer(&got))
	if got[1] != 0 {
		fmt.Println("error", got[2])
		os.Exit(3)
	}
	response := got[2]
	status := incomingResponseStatus(response)
	fields := incomingResponseHeaders(response)
	var list [2]uint32
	fieldsEntries(fields, unsafe.Pointer(&list))
	var lines []string
	if list[1] > 0 {
		for _, e := range unsafe.Slice((*[4]uint32)(unsafe.Pointer(uintptr(list[0]))), list[1]) {
			lines = append(lines, string(take(e[0], e[1]))+": "+string(take(e[2], e[3])))
		}
	}
	dropFields(fields)
	var opened [2]uint32
	incomingResponseConsume(response, unsafe.Pointer(&opened))
	var body []byte
	for {
		var piece [4]uint32
		streamRead(opened[1], 65536, unsafe.Pointer(&piece))
		if piece[0] != 0 {
			os.Exit(4)
		}
		body = append(body, take(piece[1], piece[2])...)
		if piece[3] == 0 {
			break
		}
	}
	dropInputStream(opened[1])
	dropIncomingResponse(response)
	return status, lines, body
}

func main() {
	urls := os.Args[1:]
	var futures []uint32
	if len(urls) == 2 && urls[0] == "-post" {
		data, err := io.ReadAll(os.Stdin)
		if err != nil {
			panic(err)
		}
		futures = append(futures, start(2, urls[1], data))
	} else {
		for _, url := range urls {
			futures = append(futures, start(0, url, nil))
		}
	}
	var lines []string
	var body []byte
	for _, future := range futures {
		var status uint32
		status, lines, body = finish(future)
		fmt.Println(status, len(body))
	}
	fmt.Println(strings.Join(lines, "\n"))
	fmt.Println()
	os.Stdout.Write(body)
}
