;; Has the host hold two thousand request bodies of up to 64 MiB each, none of which is ever sent.
(module
  (import "types" "new-fields" (func $fields (param i32 i32) (result i32)))
  (import "types" "new-outgoing-request" (func $request
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "types" "outgoing-request-write" (func $open (param i32 i32)))
  (import "streams" "write" (func $write (param i32 i32 i32 i32)))
  (memory (export "memory") 256)
  (data (i32.const 16) "/")
  (data (i32.const 32) "localhost")
  (func (export "_start") (local $n i32) (local $m i32)
    (loop $bodies
      (call $open
        (call $request (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 0)
          (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 32) (i32.const 9)
          (call $fields (i32.const 0) (i32.const 0)))
        (i32.const 0))
      (local.set $m (i32.const 0))
      (loop $pieces
        (call $write (i32.load (i32.const 4)) (i32.const 1024) (i32.const 0xf00000) (i32.const 8))
        (local.set $m (i32.add (local.get $m) (i32.const 1)))
        (br_if $pieces (i32.lt_u (local.get $m) (i32.const 4))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $bodies (i32.lt_u (local.get $n) (i32.const 1000))))))
