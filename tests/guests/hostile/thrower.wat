;; Throws an exception that nobody catches.
(module
  (tag $e)
  (func (export "_start") (throw $e)))
