// Counts the lines of the files a.txt and b.txt in the first folder that it has, writes the sum into the second and
// reads it back. AssemblyScript's library has no files: these are the calls of preview 1 themselves.
import { proc_exit, write } from "../../../deploy/quickstart/guests/wasi";

@external("wasi_snapshot_preview1", "path_open")
declare function path_open(
  fd: u32, follow: u32, path: usize, length: usize, oflags: u32, rights: u64, inheriting: u64, flags: u32, opened: usize,
): u32;
@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(fd: u32, iovs: usize, count: usize, nread: usize): u32;
@external("wasi_snapshot_preview1", "fd_close")
declare function fd_close(fd: u32): u32;

const FIRST: u32 = 3;
const CREATE_AND_CUT: u32 = 1 | 8;
const READ: u64 = 1 << 1;
const WRITE: u64 = 1 << 6;

const place: usize = memory.data(16);
const block: usize = memory.data(4096);

function open(folder: u32, name: string, oflags: u32, rights: u64): u32 {
  const path = String.UTF8.encode(name);
  const failed = path_open(folder, 0, changetype<usize>(path), path.byteLength, oflags, rights, 0, 0, place);
  if (failed != 0) proc_exit(failed);
  return load<u32>(place);
}

/** At most a block of a file, from its beginning; gives back the number of bytes. */
function read(folder: u32, name: string): usize {
  const file = open(folder, name, 0, READ);
  store<usize>(place, block);
  store<usize>(place + 4, 4096);
  const failed = fd_read(file, place, 1, place + 8);
  if (failed != 0) proc_exit(failed);
  fd_close(file);
  return load<u32>(place + 8);
}

let lines = 0;
const names = ["a.txt", "b.txt"];
for (let at = 0; at < names.length; at++) {
  const size = read(FIRST, names[at]);
  for (let byte: usize = 0; byte < size; byte++) lines += load<u8>(block + byte) == 0x0a ? 1 : 0;
}
const sum = String.UTF8.encode(lines.toString() + "\n");
const file = open(FIRST + 1, "assemblyscript", CREATE_AND_CUT, WRITE);
write(file, changetype<usize>(sum), sum.byteLength);
fd_close(file);
write(1, block, read(FIRST + 1, "assemblyscript"));
