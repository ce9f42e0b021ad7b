;; Calls a host function for ever: most of the time is spent outside of its code.
(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (func (export "_start") (loop (drop (call $yield)) (br 0))))
