"""The request codec: its fast path agrees with the exact one wherever it answers, and bodies are read or refused."""

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from sandboxd import gojson
    from sandboxd.gojson import exact as gojson_exact

SEEDS = (
    b'{"operation":"execute","data":"a","metadata":{"args":"x,y"}}',
    b'{"data":{"b":[1.0,-0,1e-7,12345678901234567890,"\\u2028\\ud83d\\ude00<&>"],"a":null},"operation":"create"}',
    b'{"OPERATION":"x","Data":"\\u00e9\xff","data":1e400,"metadata":{"k":null}} trailing',
)


def target(data: bytes) -> None:
    ordinary = gojson._decode_ordinary(data)
    try:
        exact: gojson.Request | None = gojson.Request(*gojson_exact.decode(data, cut=False))
    except (gojson.JsonSyntaxError, gojson_exact.TypeMismatchError, gojson_exact.StreamError) as fault:
        assert str(fault)
        exact = None
    assert ordinary is None or ordinary == exact, (data, ordinary, exact)
    try:
        assert gojson.decode(data) == exact
    except gojson.MalformedError:
        assert exact is None
    if exact is not None:
        # What was encoded once is in Go's form already: doing it again changes nothing.
        again = gojson.decode(b'{"operation":"x","data":' + exact.data + b"}")
        assert again.data == exact.data, (exact.data, again.data)


if __name__ == "__main__":
    fuzz(target)
