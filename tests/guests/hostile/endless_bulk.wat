;; Fills and copies 32 MiB for ever: single instructions that take milliseconds.
(module
  (memory (export "memory") 512)
  (func (export "_start")
    (loop
      (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x2000000))
      (memory.copy (i32.const 1) (i32.const 0) (i32.const 0x1ffffff))
      (br 0))))
