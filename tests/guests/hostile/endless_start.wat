;; Computes for ever in its start function, before there is an instance to call.
(module
  (func $spin (loop (br 0)))
  (start $spin)
  (func (export "_start")))
