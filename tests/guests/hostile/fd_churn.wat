;; Closes, renumbers and asks about descriptors a hundred thousand times; exits with the last errno.
(module
  (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $n i32)
    (loop $more
      (drop (call $renumber (i32.const 0) (i32.const 2)))
      (drop (call $renumber (i32.const 2) (local.get $n)))
      (drop (call $close (local.get $n)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 100000))))
    (call $exit (call $close (i32.const 0)))))
