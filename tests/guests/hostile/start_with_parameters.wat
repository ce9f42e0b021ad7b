;; Exports a `_start` that wants parameters.
(module
  (func (export "_start") (param i32)))
