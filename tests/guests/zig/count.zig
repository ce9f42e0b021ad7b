//! Counts lines, words and bytes of stdin, like wc, and writes them as one JSON object.

const std = @import("std");
const wasi = std.os.wasi;

pub fn main() void {
    var block: [16384]u8 = undefined;
    var lines: u64 = 0;
    var words: u64 = 0;
    var bytes: u64 = 0;
    var in_word = false;
    while (true) {
        var n: usize = 0;
        const into = [_]std.posix.iovec{.{ .base = &block, .len = block.len }};
        if (wasi.fd_read(0, &into, into.len, &n) != .SUCCESS) wasi.proc_exit(2);
        if (n == 0) break;
        bytes += n;
        for (block[0..n]) |c| {
            const space = std.ascii.isWhitespace(c);
            if (c == '\n') lines += 1;
            if (!space and !in_word) words += 1;
            in_word = !space;
        }
    }
    const text = std.fmt.bufPrint(&block, "{{\"lines\":{d},\"words\":{d},\"bytes\":{d}}}", .{ lines, words, bytes }) catch unreachable;
    var done: usize = 0;
    while (done < text.len) {
        var n: usize = 0;
        const from = [_]std.posix.iovec_const{.{ .base = text.ptr + done, .len = text.len - done }};
        if (wasi.fd_write(1, &from, from.len, &n) != .SUCCESS) wasi.proc_exit(3);
        done += n;
    }
}
