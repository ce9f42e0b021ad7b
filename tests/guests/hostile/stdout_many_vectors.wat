;; One write of 1,024 vectors that all name the same 32 MiB: 32 GiB.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 512)
  (func (export "_start") (local $at i32)
    (loop $next
      (i32.store (i32.add (local.get $at) (i32.const 4)) (i32.const 0x1f00000))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 8192))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1024) (i32.const 8192)))
    unreachable))
