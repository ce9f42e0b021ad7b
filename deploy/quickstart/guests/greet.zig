//! Greets everybody named in the request's arguments, with the word the operator put into the environment (GREETING).
//! Without arguments it asks for some and exits with code 2, which the caller sees as an error.

const std = @import("std");
const wasi = std.os.wasi;

var room: [65536]u8 = undefined;

/// Every piece of `text` to descriptor `fd`; a refused write ends the guest.
fn say(fd: wasi.fd_t, text: []const u8) void {
    var rest = text;
    while (rest.len > 0) {
        var n: usize = 0;
        const from = [_]std.posix.iovec_const{.{ .base = rest.ptr, .len = rest.len }};
        if (wasi.fd_write(fd, &from, from.len, &n) != .SUCCESS) wasi.proc_exit(3);
        rest = rest[n..];
    }
}

pub fn main(init: std.process.Init.Minimal) void {
    var memory = std.heap.FixedBufferAllocator.init(&room);
    const gpa = memory.allocator();
    const names = init.args.toSlice(gpa) catch wasi.proc_exit(4);
    const environ = init.environ.createMap(gpa) catch wasi.proc_exit(4);
    if (names.len < 2) {
        say(2, "greet: name somebody in metadata.args\n");
        wasi.proc_exit(2);
    }
    for (names[1..]) |name| {
        say(1, environ.get("GREETING") orelse "Hello");
        say(1, ", ");
        say(1, name);
        say(1, "!\n");
    }
}
