"""A limit has one home: one entry added to `Limits`, in a copy of the program, is found everywhere a limit is named.

Not tested here: that a limit is enforced. Each has its own test where the guest runs into it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ENTRY = """\
    new_things: int = limit(
        "newThings", _C, 2, 50, "things of a new kind", default=5, ceiling=20, error_codes=("HTTP-upgrade-failed",)
    )


"""
SCRIPT = """
import json, sys
from pathlib import Path
from sandboxd import components
from sandboxd.commands.reference import schemas, tables
from sandboxd.config import load, read, render
from sandboxd.limits.keys import ALL_KEYS, key_of, named, outbound_limit
from sandboxd.metrics import Metrics
from sandboxd.outcome import Outcome
from sandboxd.wire import codec, messages as m

folder = Path(sys.argv[1])


def settings(text, environ={}):
    file = folder / "sandboxd.yaml"
    file.write_text(text)
    reading = read(file, environ=environ)
    return reading.config, [str(problem) for problem in reading.problems]


def binding(value):
    text = (folder / "component.yaml.in").read_text().replace("VALUE", value)
    (folder / "components").mkdir(exist_ok=True)
    (folder / "components" / "one.yaml").write_text(text)
    config, _ = settings("limits: {newThings: 7}")
    loaded = components.load(
        [folder / "components"], app_id="a", environ={}, limits=config.limits, ceilings=config.ceilings
    )
    return loaded.bindings, [problem.message for problem in loaded.problems]


def refused(text):
    return settings(text)[1]


metrics = Metrics(version="1")
metrics.binding("b").ran(m.Result(id=1, outcome=Outcome.HOST_FAILED, limit="newThings"), 0)
counted = [
    sample.labels["limit"]
    for family in metrics.registry.collect()
    for sample in family.samples
    if sample.name == "sandboxd_limits_reached_total"
]
default, _ = load(None, environ={})
written, _ = settings("limits: {newThings: 7, ceilings: {newThings: 9}}")
variable, _ = settings("", {"SANDBOXD_LIMITS_NEW_THINGS": "8"})
spec = m.GuestSpec(binding="b", kind="module", artifact="/a", argv0=b"g", limits=written.limits)
load_message = m.Load(engine=written.wasm, outbound=written.egress, guests=(spec,))
(carried,) = codec.Decoder(codec.ToZygote).feed(codec.encode(load_message))
print(json.dumps({
    "default": [default.limits.new_things, default.ceilings.new_things],
    "file": [written.limits.new_things, written.ceilings.new_things],
    "variable": variable.limits.new_things,
    "printed": [line.strip() for line in render(default).splitlines() if "newThings" in line],
    "bounds": refused("limits: {newThings: 1}"),
    "contradiction": refused("limits: {newThings: 7, ceilings: {newThings: 6}}"),
    "metadata": [one.limits.new_things for one in binding("11")[0]],
    "above": binding("21")[1],
    "not a number": binding("many")[1],
    "wire": carried.guests[0].limits.new_things,
    "named": [key_of("new_things"), named("new_things", 7), "newThings" in ALL_KEYS],
    "error code": outbound_limit("HTTP-upgrade-failed", ""),
    "counted": counted,
    "schemas": {name: json.loads(text) for name, text in schemas().items()},
    "docs": {
        name: [line for line in table.splitlines() if "newThings" in line] for name, table in tables().items()
    },
}))
"""
COMPONENT = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: one
spec:
  type: bindings.wasm
  version: v1
  metadata:
  - {name: url, value: file://guest.wasm}
  - {name: newThings, value: VALUE}
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what a program with one more limit says of that limit."""
    folder = tmp_path_factory.mktemp("copy")
    for package in ("sandboxd", "hostfuncs"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    model = folder / "sandboxd" / "limits" / "model.py"
    limits, rest = model.read_text().split("\n\n\n@dataclass(frozen=True, kw_only=True, slots=True)\nclass Engine", 1)
    model.write_text(f"{limits}\n{ENTRY}@dataclass(frozen=True, kw_only=True, slots=True)\nclass Engine{rest}")
    (folder / "component.yaml.in").write_text(COMPONENT)
    program = folder / "program.py"
    program.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-P", str(program), str(folder)],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_is_a_setting(found: Any) -> None:
    assert found["default"] == [5, 20]
    assert found["file"] == [7, 9]
    assert found["variable"] == 8
    assert found["printed"] == ["newThings: 5", "newThings: 20"]


def test_it_is_component_metadata(found: Any) -> None:
    assert found["metadata"] == [11]


def test_workers_are_told(found: Any) -> None:
    assert found["wire"] == 7


def test_errors_name_it(found: Any) -> None:
    (bounds,) = found["bounds"]
    assert "limits.newThings: 1 is below the least allowed, 2 (limits.newThings: things of a new kind)" in bounds
    (contradiction,) = found["contradiction"]
    assert "limits.newThings 7 is above limits.ceilings.newThings 6" in contradiction
    (above,) = found["above"]
    assert "newThings 21 is above the operator's ceiling of 20" in above
    (wrong,) = found["not a number"]
    assert "newThings 'many' is not a whole number such as 64" in wrong
    assert found["named"] == ["newThings", "7 (newThings)", True]


def test_the_metrics_count_it(found: Any) -> None:
    assert found["counted"] == ["newThings"]
    assert found["error code"] == "newThings"


def test_the_documentation_lists_it(found: Any) -> None:
    meaning = "things of a new kind"
    assert found["docs"]["settings"] == [
        f"| `limits.newThings` | `5` | number, 2 to 50 | `SANDBOXD_LIMITS_NEW_THINGS` | {meaning} |",
        f"| `limits.ceilings.newThings` | `20` | number, 2 to 50 | `SANDBOXD_LIMITS_CEILINGS_NEW_THINGS` | {meaning} |",
    ]
    assert found["docs"]["metadata"] == [f"| `newThings` | `5` | number, from 2 | `20` | {meaning} |"]


def test_editors_know_it(found: Any) -> None:
    limits = found["schemas"]["settings"]["properties"]["limits"]["properties"]
    schema = limits["newThings"]
    assert (schema["minimum"], schema["maximum"], schema["default"]) == (2, 50, 5)
    assert limits["ceilings"]["properties"]["newThings"]["default"] == 20
    items = found["schemas"]["component"]["then"]["properties"]["spec"]["properties"]["metadata"]["items"]
    assert "newThings" in items["properties"]["name"]["anyOf"][0]["enum"]
