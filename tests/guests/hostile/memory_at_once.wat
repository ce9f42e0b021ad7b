;; Asks for 4 GiB at once and writes to it though it was refused.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (memory.grow (i32.const 65535)))
    (i32.store (i32.const 0xfffffff0) (i32.const 1))))
