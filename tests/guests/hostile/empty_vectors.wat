;; Reads stdin with four million vectors of no bytes, again and again, and exits with the errno.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32))) (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 512)
  (func (export "_start") (local $n i32) (local $errno i32)
    (loop $more
      (local.set $errno (call $read (i32.const 0) (i32.const 64) (i32.const 4194000) (i32.const 8)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 1000))))
    (call $exit (local.get $errno))))
