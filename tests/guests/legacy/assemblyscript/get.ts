// get: reads one line from stdin, `METHOD AUTHORITY PATH [BODY]`, sends it over http and prints status, the value of
// every header line and the body. The imports are Dapr's wasi-http, declared by hand.

@external("types", "new-fields")
declare function new_fields(ptr: usize, len: u32): u32;
@external("types", "fields-entries")
declare function fields_entries(fields: u32, out: usize): void;
@external("types", "new-outgoing-request")
declare function new_outgoing_request(
  method: u32, method_ptr: usize, method_len: u32, path: usize, path_len: u32, query: usize, query_len: u32,
  scheme_is_some: u32, scheme: u32, scheme_ptr: usize, scheme_len: u32, authority: usize, authority_len: u32,
  headers: u32): u32;
@external("types", "outgoing-request-write")
declare function outgoing_request_write(request: u32, out: usize): void;
@external("types", "future-incoming-response-get")
declare function future_incoming_response_get(future: u32, out: usize): void;
@external("types", "incoming-response-status")
declare function incoming_response_status(response: u32): u32;
@external("types", "incoming-response-headers")
declare function incoming_response_headers(response: u32): u32;
@external("types", "incoming-response-consume")
declare function incoming_response_consume(response: u32, out: usize): void;
@external("streams", "read")
declare function streams_read(stream: u32, len: i64, out: usize): void;
@external("streams", "write")
declare function streams_write(stream: u32, ptr: usize, len: u32, out: usize): void;
@external("default-outgoing-HTTP", "handle")
declare function handle(
  request: u32, has_options: u32, has_connect: u32, connect: u32, has_first: u32, first: u32, has_between: u32,
  between: u32): u32;
@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(fd: u32, iovs: usize, count: u32, read: usize): u32;
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: u32, iovs: usize, count: u32, written: usize): u32;
@external("wasi_snapshot_preview1", "proc_exit")
declare function proc_exit(code: u32): void;

export function cabi_realloc(old: usize, old_size: u32, align: u32, size: u32): usize {
  return heap.alloc(size);
}

const OUT = memory.data(16);
const IOV = memory.data(8);
const INPUT = memory.data(65536);

function print(text: string): void {
  const bytes = String.UTF8.encode(text);
  write_out(changetype<usize>(bytes), bytes.byteLength);
}

function write_out(ptr: usize, len: u32): void {
  store<u32>(IOV, ptr as u32);
  store<u32>(IOV, len, 4);
  fd_write(1, IOV, 1, OUT);
}

export function _start(): void {
  store<u32>(IOV, INPUT as u32);
  store<u32>(IOV, 65536, 4);
  fd_read(0, IOV, 1, OUT);
  const words = String.UTF8.decodeUnsafe(INPUT, load<u32>(OUT)).trim().split(" ");
  const authority = String.UTF8.encode(words[1]);
  const path = String.UTF8.encode(words[2]);
  const request = new_outgoing_request(
    words[0] == "POST" ? 2 : 0, 0, 0, changetype<usize>(path), path.byteLength, 0, 0, 1, 0, 0, 0,
    changetype<usize>(authority), authority.byteLength, new_fields(0, 0));
  if (words.length > 3) {
    const body = String.UTF8.encode(words[3]);
    outgoing_request_write(request, OUT);
    streams_write(load<u32>(OUT, 4), changetype<usize>(body), body.byteLength, OUT);
    if (load<u32>(OUT)) proc_exit(6);
  }
  future_incoming_response_get(handle(request, 0, 0, 0, 0, 0, 0, 0), OUT);
  if (load<u32>(OUT, 4)) {
    print("error " + load<u32>(OUT, 8).toString() + "\n");
    proc_exit(3);
  }
  const response = load<u32>(OUT, 8);
  print(incoming_response_status(response).toString() + "\n");
  fields_entries(incoming_response_headers(response), OUT);
  const entries = load<u32>(OUT) as usize;
  const count = load<u32>(OUT, 4);
  for (let i: u32 = 0; i < count; i++) {
    write_out(load<u32>(entries + 16 * i, 8), load<u32>(entries + 16 * i, 12));
    print("\n");
  }
  incoming_response_consume(response, OUT);
  const stream = load<u32>(OUT, 4);
  for (;;) {
    streams_read(stream, 1024 * 1024, OUT);
    if (load<u32>(OUT)) proc_exit(4);
    const ended = load<u32>(OUT, 12) == 0;
    const ptr = load<u32>(OUT, 4);
    write_out(ptr, load<u32>(OUT, 8));
    if (ended) break;
  }
}
