"""Component files: any text becomes bindings or problems, each in one line."""

import functools
import tempfile
from pathlib import Path

from tests.fuzz.engine import fuzz, instrumented

with instrumented():
    from sandboxd import components
    from sandboxd.files import yamltext
    from sandboxd.limits import Limits
    from sandboxd.limits.keys import DEFAULT_CEILINGS

SEEDS = (
    b"""apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: wasm}
spec:
  type: bindings.wasm
  version: v1
  metadata:
  - {name: url, value: "file://g.wasm"}
  - {name: timeout, value: 5s}
  - {name: env.A, value: &a [1, 2.5, ~, true, 0x1F]}
---
kind: Component
metadata: {name: [x], labels: {? k : v}}
""",
    b"- |\n  text\n- >-\n  folded\n- 'it''s'\n- \"\\x41\\u263a\"\n- !!str 1\n- *a\n",
)


@functools.cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-components-"))


def target(data: bytes) -> None:
    try:
        yamltext.parse(data.decode("utf-8", "surrogateescape"))
    except yamltext.YamlError as error:
        assert str(error)
    (folder() / "c.yaml").write_bytes(data)
    loaded = components.load([folder()], app_id="app", environ={}, limits=Limits(), ceilings=DEFAULT_CEILINGS)
    for problem in loaded.problems:
        assert problem.message
        assert "\n" not in str(problem)
    for binding in loaded.bindings:
        assert binding.name
        assert binding.url
        "".join(name + value for name, value in binding.env).encode()


if __name__ == "__main__":
    fuzz(target)
