// stdin and stdout for AssemblyScript guests by plain preview 1 imports, without a shim.

@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(fd: u32, iovs: usize, count: usize, nread: usize): u32;
@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: u32, iovs: usize, count: usize, nwritten: usize): u32;
@external("wasi_snapshot_preview1", "args_sizes_get")
declare function args_sizes_get(count: usize, bytes: usize): u32;
@external("wasi_snapshot_preview1", "args_get")
declare function args_get(argv: usize, bytes: usize): u32;
@external("wasi_snapshot_preview1", "proc_exit")
export declare function proc_exit(code: u32): void;

const iov: usize = memory.data(16);

/** What the compiler calls for a failed assertion: message and place to stderr, then a trap. */
export function abort(message: string | null, file: string | null, line: u32, column: u32): void {
  writeText(2, (message ? message : "abort") + " at " + (file ? file : "?") + ":" + line.toString() + "\n");
  unreachable();
}

/** argv as strings, argv[0] first. */
export function args(): string[] {
  if (args_sizes_get(iov, iov + 4) != 0) proc_exit(64);
  const count = load<u32>(iov), bytes = load<u32>(iov + 4);
  const argv = heap.alloc(count * 4 + 4), text = heap.alloc(bytes + 1);
  if (args_get(argv, text) != 0) proc_exit(64);
  const list: string[] = [];
  for (let i: u32 = 0; i < count; i++) {
    const begin: usize = load<u32>(argv + i * 4);
    let end = begin;
    while (load<u8>(end) != 0) end++;
    list.push(String.UTF8.decodeUnsafe(begin, end - begin));
  }
  return list;
}

/** All of stdin. */
export function readAll(): Uint8Array {
  let room: usize = 65536, used: usize = 0, block = heap.alloc(room);
  for (;;) {
    if (used == room) block = heap.realloc(block, room *= 2);
    store<usize>(iov, block + used);
    store<usize>(iov + 4, room - used);
    if (fd_read(0, iov, 1, iov + 8) != 0) proc_exit(65);
    const n: usize = load<u32>(iov + 8);
    if (n == 0) break;
    used += n;
  }
  const all = new Uint8Array(<i32>used);
  memory.copy(all.dataStart, block, used);
  heap.free(block);
  return all;
}

/** `length` bytes at `from` to descriptor `fd`. */
export function write(fd: u32, from: usize, length: usize): void {
  while (length > 0) {
    store<usize>(iov, from);
    store<usize>(iov + 4, length);
    if (fd_write(fd, iov, 1, iov + 8) != 0) proc_exit(66);
    const n: usize = load<u32>(iov + 8);
    from += n;
    length -= n;
  }
}

/** A string as UTF-8. */
export function writeText(fd: u32, text: string): void {
  const bytes = String.UTF8.encode(text);
  write(fd, changetype<usize>(bytes), bytes.byteLength);
}
