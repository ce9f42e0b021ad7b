;; Makes the host call its allocator back while its start function runs, and from there calls the host again: there is
;; no instance to look the allocator up in yet, and the memory is known to the innermost call only. Harmless where it
;; works; then it exits with 7.
(module
  (import "types" "new-fields" (func $new (param i32 i32) (result i32)))
  (import "types" "fields-entries" (func $entries (param i32 i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $now (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 4096))
  (data (i32.const 0) "\10\00\00\00\04\00\00\00\20\00\00\00\05\00\00\00")
  (data (i32.const 16) "name")
  (data (i32.const 32) "value")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (drop (call $now (i32.const 1) (i64.const 0) (i32.const 256)))
    (global.set $free (i32.add (global.get $free) (i32.const 64)))
    (global.get $free))
  (func $use
    (call $entries (call $new (i32.const 0) (i32.const 1)) (i32.const 512))
    (if (i32.ne (i32.load (i32.const 516)) (i32.const 1)) (then unreachable))
    (if (i32.ne (i32.load (i32.load (i32.load (i32.const 512)))) (i32.const 0x656d616e)) (then unreachable)))
  (start $use)
  (func (export "_start") (call $use) (call $exit (i32.const 7))))
