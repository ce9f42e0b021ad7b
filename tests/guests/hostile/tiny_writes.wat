;; Writes one byte to stdout 100,000 times, and nothing as often.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\10\00\00\00\01")
  (data (i32.const 16) "x")
  (data (i32.const 24) "\10")
  (func (export "_start") (local $n i32)
    (loop $more
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (drop (call $write (i32.const 1) (i32.const 24) (i32.const 1) (i32.const 8)))
      (drop (call $write (i32.const 1) (i32.const 24) (i32.const 0) (i32.const 8)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 100000))))))
