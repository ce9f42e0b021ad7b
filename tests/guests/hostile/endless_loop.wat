;; Computes for ever without a call.
(module
  (func (export "_start") (loop (br 0))))
