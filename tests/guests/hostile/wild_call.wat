;; Calls through a table with an index, and then a type, that is not there.
(module
  (type $t (func (param i32 i64) (result f64)))
  (table 8 funcref)
  (elem (i32.const 0) $f)
  (func $f)
  (func (export "_start")
    (drop (call_indirect (type $t) (i32.const 1) (i64.const 2) (i32.const 0)))))
