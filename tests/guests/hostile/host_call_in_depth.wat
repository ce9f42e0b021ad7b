;; Recurses to a little before the end of the stack and makes a host call at every depth.
(module
  (import "wasi_snapshot_preview1" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
  (memory (export "memory") 1)
  (func $deeper (result i32)
    (i32.add (call $now (i32.const 1) (i64.const 0) (i32.const 0)) (call $deeper)))
  (func (export "_start") (drop (call $deeper))))
