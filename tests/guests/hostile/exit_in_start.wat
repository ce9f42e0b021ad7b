;; Exits with 9 in its start function.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (func $start (call $exit (i32.const 9)))
  (start $start)
  (func (export "_start")))
