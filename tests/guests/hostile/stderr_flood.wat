;; Writes 60,000 bytes at a time to stderr, 2,000 times, then `end`.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\00\01\00\00\60\ea")
  (data (i32.const 16) "\20\00\00\00\03")
  (data (i32.const 32) "end")
  (func (export "_start") (local $n i32)
    (loop $more
      (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 2000))))
    (drop (call $write (i32.const 2) (i32.const 16) (i32.const 1) (i32.const 8)))))
