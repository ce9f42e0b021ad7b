;; Keeps every object it makes on the engine's garbage-collected heap.
(module
  (rec (type $list (struct (field (ref null $list)) (field (ref $bytes))))
  (type $bytes (array (mut i8))))
  (global $head (mut (ref null $list)) (ref.null $list))
  (func (export "_start")
    (loop $more
      (global.set $head (struct.new $list (global.get $head) (array.new_default $bytes (i32.const 65536))))
      (br $more))))
