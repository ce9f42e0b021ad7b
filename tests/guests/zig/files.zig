//! Counts the lines of every file in the folder of its first argument, writes the sum into the second and reads it back.

const std = @import("std");

pub fn main(init: std.process.Init) !void {
    const io = init.io;
    var arguments = try init.minimal.args.iterateAllocator(init.gpa);
    _ = arguments.skip();
    // Zig has no absolute paths on WASI: a folder is found by the name that the host gave it.
    const from = folder(init, arguments.next());
    const to = folder(init, arguments.next());

    var lines: usize = 0;
    var listing = (try from.openDir(io, ".", .{ .iterate = true })).iterate();
    while (try listing.next(io)) |entry| {
        if (entry.kind != .file) continue;
        const text = try from.readFileAlloc(io, entry.name, init.gpa, .unlimited);
        defer init.gpa.free(text);
        lines += std.mem.count(u8, text, "\n");
    }

    var buffer: [32]u8 = undefined;
    try to.writeFile(io, .{ .sub_path = "zig", .data = try std.fmt.bufPrint(&buffer, "{d}\n", .{lines}) });
    try std.Io.File.stdout().writeStreamingAll(io, try to.readFile(io, "zig", &buffer));
}

fn folder(init: std.process.Init, name: ?[]const u8) std.Io.Dir {
    return init.preopens.get(name orelse std.process.fatal("two folders are wanted", .{})).?.dir;
}
