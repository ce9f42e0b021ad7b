;; Two functions that tail-call each other for ever: no loop, and the stack does not grow.
(module
  (func $ping (return_call $pong))
  (func $pong (return_call $ping))
  (func (export "_start") (call $ping)))
