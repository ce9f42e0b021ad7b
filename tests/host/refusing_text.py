"""A `wasi:http/proxy` component as text that answers every request with an error code whose texts it chooses."""

from hostfuncs.wasip2.http_types import ERROR_CODE
from hostfuncs.wasip2.types import Option, Prim, Record, Type


def type_text(kind: Type) -> str:
    """Return a payload of `error-code` as WAT writes its type; records by the names `$dns`, `$alert` and `$size`."""
    match kind:
        case Option(inner):
            return f"(option {type_text(inner)})"
        case Record(fields) if "rcode" in dict(fields):
            return "$dns"
        case Record(fields) if "alert-id" in dict(fields):
            return "$alert"
        case Record():
            return "$size"
    assert isinstance(kind, Prim)
    return kind.name


def refusing(size: int, *, code: str = "internal-error", byte: str = "<") -> str:
    """The component.

    Parameters:
        size: bytes of the text.
        code: `internal-error`, or `DNS-error`, whose payload begins with an optional text too.
        byte: the text is this character again and again.
    """
    cases = " ".join(
        f'(case "{name}"{"" if payload is None else " " + type_text(payload)})' for name, payload in ERROR_CODE.cases
    )
    number = [name for name, _ in ERROR_CODE.cases].index(code)
    # The flattened payload: option<string> of internal-error, or a record whose first field is one.
    return f"""
(component
  (import "wasi:http/types@0.2.6" (instance $http
    (export "incoming-request" (type $request (sub resource)))
    (export "outgoing-response" (type $response (sub resource)))
    (export "response-outparam" (type $outparam (sub resource)))
    (type $dns0 (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns (eq $dns0)))
    (type $alert0 (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $alert (eq $alert0)))
    (type $size0 (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $size (eq $size0)))
    (type $code0 (variant {cases}))
    (export "error-code" (type $code (eq $code0)))
    (export "[static]response-outparam.set" (func (param "param" (own $outparam))
      (param "response" (result (own $response) (error $code)))))))
  (alias export $http "incoming-request" (type $request))
  (alias export $http "response-outparam" (type $outparam))
  (alias export $http "[static]response-outparam.set" (func $set))
  (core module $libc (memory (export "memory") {size // 65536 + 2}))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (core func $set (canon lower (func $set) (memory $memory)))
  (core module $main
    (import "libc" "memory" (memory 1))
    (import "h" "set" (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
    (func (export "handle") (param i32 i32)
      (memory.fill (i32.const 1024) (i32.const {ord(byte)}) (i32.const {size}))
      (call $set (local.get 1) (i32.const 1) (i32.const {number}) (i32.const 1) (i64.const 1024) (i32.const {size})
        (i32.const 0) (i32.const 0) (i32.const 0))))
  (core instance $main (instantiate $main (with "libc" (instance $libc))
    (with "h" (instance (export "set" (func $set))))))
  (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $main "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.6" (instance $handler)))
"""
