;; Has the host fill 32 MiB with random bytes, for ever: each call takes long.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 512)
  (func (export "_start") (loop (drop (call $random (i32.const 0) (i32.const 0x2000000))) (br 0))))
