"""A component as text that imports what a guest needs of wasi:http to make the host hold things for it."""

from hostfuncs.wasip2.http_types import ERROR_CODE
from tests.host.refusing_text import type_text

_CASES = " ".join(
    f'(case "{name}"{"" if payload is None else " " + type_text(payload)})' for name, payload in ERROR_CODE.cases
)
_V = "@0.2.6"

# Name in the core module -> instance, name, type as the core module sees it.
_FUNCTIONS = {
    "block": ("poll", "[method]pollable.block", "(param i32)"),
    "after": ("clock", "subscribe-duration", "(param i64) (result i32)"),
    "now-in": ("in", "[method]input-stream.read", "(param i32 i64 i32)"),
    "put": ("in", "[method]output-stream.write", "(param i32 i32 i32 i32)"),
    "fields": ("http", "[constructor]fields", "(result i32)"),
    "append": ("http", "[method]fields.append", "(param i32 i32 i32 i32 i32 i32)"),
    "listed": ("http", "[static]fields.from-list", "(param i32 i32 i32)"),
    "clone": ("http", "[method]fields.clone", "(param i32) (result i32)"),
    "request": ("http", "[constructor]outgoing-request", "(param i32) (result i32)"),
    "path": ("http", "[method]outgoing-request.set-path-with-query", "(param i32 i32 i32 i32) (result i32)"),
    "authority": ("http", "[method]outgoing-request.set-authority", "(param i32 i32 i32 i32) (result i32)"),
    "scheme": ("http", "[method]outgoing-request.set-scheme", "(param i32 i32 i32 i32 i32) (result i32)"),
    "headers": ("http", "[method]outgoing-request.headers", "(param i32) (result i32)"),
    "body": ("http", "[method]outgoing-request.body", "(param i32 i32)"),
    "stream": ("http", "[method]outgoing-body.write", "(param i32 i32)"),
    "options": ("http", "[constructor]request-options", "(result i32)"),
    "listen": ("http", "[method]future-incoming-response.subscribe", "(param i32) (result i32)"),
    "get": ("http", "[method]future-incoming-response.get", "(param i32 i32)"),
    "response-headers": ("http", "[method]incoming-response.headers", "(param i32) (result i32)"),
    "consume": ("http", "[method]incoming-response.consume", "(param i32 i32)"),
    "read-stream": ("http", "[method]incoming-body.stream", "(param i32 i32)"),
    "handle": ("out", "handle", "(param i32 i32 i32 i32)"),
}

_IMPORTS = f"""
  (import "wasi:io/error{_V}" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $error-t))
  (import "wasi:io/poll{_V}" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable-t))
  (import "wasi:clocks/monotonic-clock{_V}" (instance $clock
    (alias outer 1 $pollable-t (type $p0)) (export "pollable" (type $p (eq $p0)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
  (import "wasi:io/streams{_V}" (instance $in
    (export "input-stream" (type $in (sub resource)))
    (export "output-stream" (type $out (sub resource)))
    (alias outer 1 $error-t (type $e0)) (export "error" (type $e (eq $e0)))
    (type $se (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $s (eq $se)))
    (export "[method]input-stream.read" (func (param "self" (borrow $in)) (param "len" u64)
      (result (result (list u8) (error $s)))))
    (export "[method]output-stream.write" (func (param "self" (borrow $out)) (param "contents" (list u8))
      (result (result (error $s)))))))
  (alias export $in "input-stream" (type $in-t))
  (alias export $in "output-stream" (type $out-t))
  (import "wasi:http/types{_V}" (instance $http
    (export "fields" (type $fields (sub resource)))
    (export "outgoing-request" (type $request (sub resource)))
    (export "outgoing-body" (type $body (sub resource)))
    (export "request-options" (type $options (sub resource)))
    (export "future-incoming-response" (type $future (sub resource)))
    (export "incoming-response" (type $response (sub resource)))
    (export "incoming-body" (type $incoming (sub resource)))
    (alias outer 1 $pollable-t (type $p0)) (export "pollable" (type $p (eq $p0)))
    (alias outer 1 $in-t (type $i0)) (export "input-stream" (type $in (eq $i0)))
    (alias outer 1 $out-t (type $o0)) (export "output-stream" (type $out (eq $o0)))
    (type $he0 (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
    (export "header-error" (type $he (eq $he0)))
    (type $scheme0 (variant (case "HTTP") (case "HTTPS") (case "other" string)))
    (export "scheme" (type $scheme (eq $scheme0)))
    (type $dns0 (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns (eq $dns0)))
    (type $alert0 (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $alert (eq $alert0)))
    (type $size0 (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $size (eq $size0)))
    (type $code0 (variant {_CASES}))
    (export "error-code" (type $code (eq $code0)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[static]fields.from-list" (func (param "entries" (list (tuple string (list u8))))
      (result (result (own $fields) (error $he)))))
    (export "[method]fields.append" (func (param "self" (borrow $fields)) (param "name" string)
      (param "value" (list u8)) (result (result (error $he)))))
    (export "[method]fields.clone" (func (param "self" (borrow $fields)) (result (own $fields))))
    (export "[constructor]outgoing-request" (func (param "headers" (own $fields)) (result (own $request))))
    (export "[method]outgoing-request.set-path-with-query" (func (param "self" (borrow $request))
      (param "path-with-query" (option string)) (result (result))))
    (export "[method]outgoing-request.set-authority" (func (param "self" (borrow $request))
      (param "authority" (option string)) (result (result))))
    (export "[method]outgoing-request.set-scheme" (func (param "self" (borrow $request))
      (param "scheme" (option $scheme)) (result (result))))
    (export "[method]outgoing-request.headers" (func (param "self" (borrow $request)) (result (own $fields))))
    (export "[method]outgoing-request.body" (func (param "self" (borrow $request)) (result (result (own $body)))))
    (export "[method]outgoing-body.write" (func (param "self" (borrow $body)) (result (result (own $out)))))
    (export "[constructor]request-options" (func (result (own $options))))
    (export "[method]future-incoming-response.subscribe" (func (param "self" (borrow $future)) (result (own $p))))
    (export "[method]future-incoming-response.get" (func (param "self" (borrow $future))
      (result (option (result (result (own $response) (error $code)))))))
    (export "[method]incoming-response.headers" (func (param "self" (borrow $response)) (result (own $fields))))
    (export "[method]incoming-response.consume" (func (param "self" (borrow $response))
      (result (result (own $incoming)))))
    (export "[method]incoming-body.stream" (func (param "self" (borrow $incoming)) (result (result (own $in)))))))
  (alias export $http "outgoing-request" (type $request-t))
  (alias export $http "request-options" (type $options-t))
  (alias export $http "future-incoming-response" (type $future-t))
  (alias export $http "error-code" (type $code-t))
  (alias export $http "fields" (type $fields-t))
  (import "wasi:http/outgoing-handler{_V}" (instance $out
    (alias outer 1 $request-t (type $r0)) (export "outgoing-request" (type $request (eq $r0)))
    (alias outer 1 $options-t (type $o0)) (export "request-options" (type $options (eq $o0)))
    (alias outer 1 $future-t (type $f0)) (export "future-incoming-response" (type $future (eq $f0)))
    (alias outer 1 $code-t (type $c0)) (export "error-code" (type $code (eq $c0)))
    (export "handle" (func (param "request" (own $request)) (param "options" (option (own $options)))
      (result (result (own $future) (error $code)))))))
"""


def hoarding(run: str, *, authority: str = "localhost", path: str = "/echo") -> str:
    """A command.

    Parameters:
        run: the body of `wasi:cli/run`, without a result: it may call every function of this module, and `$sent` for
            the handle of a future. It has locals `$a $b $c` (i32). What is written to memory from 1024 to 4095 is its
            own; 40,000 bytes from 65536 are letters.
        authority: whom `$sent` asks.
        path: what for.
    """
    lowered = "".join(
        f'  (alias export ${instance} "{name}" (func $c-{short}))\n'
        f"  (core func $l-{short} (canon lower (func $c-{short}) (memory $memory) (realloc $realloc)))\n"
        for short, (instance, name, _) in _FUNCTIONS.items()
    )
    lowered += "  (core func $l-drop-fields (canon resource.drop $fields-t))\n"
    given = "".join(f'(export "{short}" (func $l-{short})) ' for short in (*_FUNCTIONS, "drop-fields"))
    wanted = "".join(f'(import "h" "{short}" (func ${short} {kind}))\n' for short, (_, _, kind) in _FUNCTIONS.items())
    return f"""
(component {_IMPORTS}
  (core module $libc
    (memory (export "memory") 4)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 131072)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
{lowered}
  (core module $main
    (import "libc" "memory" (memory 1))
    {wanted}
    (import "h" "drop-fields" (func $drop-fields (param i32)))
    (data (i32.const 16) "{authority}")
    (data (i32.const 256) "{path}")
    (func $asked (param $headers i32) (result i32) (local $r i32)
      (local.set $r (call $request (local.get $headers)))
      (drop (call $scheme (local.get $r) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)))
      (drop (call $authority (local.get $r) (i32.const 1) (i32.const 16) (i32.const {len(authority)})))
      (drop (call $path (local.get $r) (i32.const 1) (i32.const 256) (i32.const {len(path)})))
      (local.get $r))
    (func $sent (result i32)
      (call $handle (call $asked (call $fields)) (i32.const 0) (i32.const 0) (i32.const 2048))
      (if (i32.load (i32.const 2048)) (then unreachable))
      (i32.load (i32.const 2056)))
    (func $answer (result i32) (local $f i32)
      (local.set $f (call $sent))
      (call $block (call $listen (local.get $f)))
      (call $get (local.get $f) (i32.const 2048))
      (if (i32.or (i32.load8_u (i32.const 2056)) (i32.load8_u (i32.const 2064))) (then unreachable))
      (i32.load (i32.const 2072)))
    (func (export "run") (result i32) (local $a i32) (local $b i32) (local $c i32)
      (memory.fill (i32.const 65536) (i32.const 97) (i32.const 40000))
      (i32.store8 (i32.const 65535) (i32.const 47))
      {run} (i32.const 0)))
  (core instance $main (instantiate $main (with "libc" (instance $libc)) (with "h" (instance {given}))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $entrance (export "run" (func $run)))
  (export "wasi:cli/run{_V}" (instance $entrance)))
"""
