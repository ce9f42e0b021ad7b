;; Declares 1 GiB of memory to begin with.
(module
  (memory (export "memory") 16384)
  (func (export "_start")))
