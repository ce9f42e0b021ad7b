;; Drops a handle twice.
(module
  (import "types" "new-fields" (func $new (param i32 i32) (result i32)))
  (import "types" "drop-fields" (func $drop (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $handle i32)
    (local.set $handle (call $new (i32.const 0) (i32.const 0)))
    (call $drop (local.get $handle))
    (drop (call $new (i32.const 0) (i32.const 0)))
    (call $drop (local.get $handle))))
