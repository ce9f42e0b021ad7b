;; Polls 2^20 subscriptions, all of them in memory; exits with the errno.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32))) (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1024)
  (func (export "_start")
    (call $exit (call $poll (i32.const 1024) (i32.const 1024) (i32.const 0x100000) (i32.const 0)))))
