"""Components written as text: a fixed set of WASI imports around a core module that a test brings."""

_IMPORTS = """
(component
  (import "wasi:io/error@{v}" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-t))
  (import "wasi:io/poll@{v}" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.ready" (func (param "self" (borrow $p)) (result bool)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))
    (export "poll" (func (param "in" (list (borrow $p))) (result (list u32))))))
  (alias export $poll "pollable" (type $pollable-t))
  (import "wasi:io/streams@{v}" (instance $streams
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (alias outer 1 $error-t (type $e0)) (export "error" (type $e (eq $e0)))
    (alias outer 1 $pollable-t (type $p0)) (export "pollable" (type $p (eq $p0)))
    (type $se (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $s (eq $se)))
    (export "[method]input-stream.read" (func (param "self" (borrow $in)) (param "len" u64)
      (result (result (list u8) (error $s)))))
    (export "[method]input-stream.subscribe" (func (param "self" (borrow $in)) (result (own $p))))
    (export "[method]output-stream.check-write" (func (param "self" (borrow $out)) (result (result u64 (error $s)))))
    (export "[method]output-stream.write" (func (param "self" (borrow $out)) (param "contents" (list u8))
      (result (result (error $s)))))
    (export "[method]output-stream.blocking-write-and-flush" (func (param "self" (borrow $out))
      (param "contents" (list u8)) (result (result (error $s)))))
    (export "[method]output-stream.write-zeroes" (func (param "self" (borrow $out)) (param "len" u64)
      (result (result (error $s)))))
    (export "[method]output-stream.splice" (func (param "self" (borrow $out)) (param "src" (borrow $in))
      (param "len" u64) (result (result u64 (error $s)))))))
  (alias export $streams "input-stream" (type $in-t))
  (alias export $streams "output-stream" (type $out-t))
  (import "wasi:cli/stdin@{v}" (instance $stdin
    (alias outer 1 $in-t (type $i0)) (export "input-stream" (type $i (eq $i0)))
    (export "get-stdin" (func (result (own $i))))))
  (import "wasi:cli/stdout@{v}" (instance $stdout
    (alias outer 1 $out-t (type $o0)) (export "output-stream" (type $o (eq $o0)))
    (export "get-stdout" (func (result (own $o))))))
  (import "wasi:cli/exit@{v}" (instance $exit (export "exit" (func (param "status" (result))))))
  (import "wasi:clocks/monotonic-clock@{v}" (instance $clock
    (alias outer 1 $pollable-t (type $p0)) (export "pollable" (type $p (eq $p0)))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:random/random@{v}" (instance $random
    (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))
  {imports}

  (core module $libc
    (memory (export "memory") 16)
    (global $next (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow (i32.const 64)))))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
"""

_FUNCTIONS = {
    "ready": ("poll", "[method]pollable.ready", "(param i32) (result i32)"),
    "block": ("poll", "[method]pollable.block", "(param i32)"),
    "poll": ("poll", "poll", "(param i32 i32 i32)"),
    "read": ("streams", "[method]input-stream.read", "(param i32 i64 i32)"),
    "subscribe": ("streams", "[method]input-stream.subscribe", "(param i32) (result i32)"),
    "check": ("streams", "[method]output-stream.check-write", "(param i32 i32)"),
    "write": ("streams", "[method]output-stream.write", "(param i32 i32 i32 i32)"),
    "blocking-write": ("streams", "[method]output-stream.blocking-write-and-flush", "(param i32 i32 i32 i32)"),
    "zeroes": ("streams", "[method]output-stream.write-zeroes", "(param i32 i64 i32)"),
    "splice": ("streams", "[method]output-stream.splice", "(param i32 i32 i64 i32)"),
    "stdin": ("stdin", "get-stdin", "(result i32)"),
    "stdout": ("stdout", "get-stdout", "(result i32)"),
    "exit": ("exit", "exit", "(param i32)"),
    "now": ("clock", "now", "(result i64)"),
    "after": ("clock", "subscribe-duration", "(param i64) (result i32)"),
    "random": ("random", "get-random-bytes", "(param i64 i32)"),
}
_DROPS = {"drop-in": "in-t", "drop-out": "out-t", "drop-pollable": "pollable-t", "drop-error": "error-t"}


def component(
    run: str, *, version: str = "0.2.6", extra: str = "", imports: str = "", exports: str | None = None
) -> str:
    """A component whose `wasi:cli/run` is a core function of a test.

    Parameters:
        run: its body, `(result i32)`: 0 is ok, 1 is err. It may call `$NAME` for each name above and `$say ptr len`
            (to stdout), and has locals `$a $b $c` (i32) and `$x` (i64). Results are written where it says; memory
            from 1024 to 65535 is free.
        version: of WASI.
        extra: more definitions of the core module.
        imports: more imports of the component.
        exports: instead of run.
    """
    lowered = "".join(
        f'  (alias export ${instance} "{name}" (func $c-{short}))\n'
        f"  (core func $l-{short} (canon lower (func $c-{short}) (memory $memory) (realloc $realloc)))\n"
        for short, (instance, name, _) in _FUNCTIONS.items()
    ) + "".join(f"  (core func $l-{short} (canon resource.drop ${kind}))\n" for short, kind in _DROPS.items())
    given = "".join(f'(export "{short}" (func $l-{short})) ' for short in (*_FUNCTIONS, *_DROPS))
    wanted = "".join(
        f'    (import "h" "{short}" (func ${short} {kind}))\n' for short, (_, _, kind) in _FUNCTIONS.items()
    )
    wanted += "".join(f'    (import "h" "{short}" (func ${short} (param i32)))\n' for short in _DROPS)
    main = f"""
  (core module $main
    (import "libc" "memory" (memory 1))
{wanted}
    (func $say (param $p i32) (param $n i32) (local $s i32)
      (local.set $s (call $stdout))
      (call $blocking-write (local.get $s) (local.get $p) (local.get $n) (i32.const 1008))
      (call $drop-out (local.get $s)))
    {extra}
    (func (export "run") (result i32) (local $a i32) (local $b i32) (local $c i32) (local $x i64)
      {run}))
  (core instance $main (instantiate $main (with "libc" (instance $libc)) (with "h" (instance {given}))))
"""
    outside = (
        exports
        if exports is not None
        else (
            f"""
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $entrance (export "run" (func $run)))
  (export "wasi:cli/run@{version}" (instance $entrance))"""
        )
    )
    return _IMPORTS.format(v=version, imports=imports) + lowered + main + outside + ")"
