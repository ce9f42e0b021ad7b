;; Declares 1 GiB of memory that it does not export.
(module
  (memory 16384)
  (func (export "_start")))
