;; Declares 900,000 table elements to begin with.
(module
  (table 900000 funcref)
  (func (export "_start")))
