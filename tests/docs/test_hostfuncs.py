"""The script in docs/hostfuncs.md does what the page says, as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.origins import Origin

ROOT = Path(__file__).parents[2]


@pytest.mark.build
def test_the_script_runs_a_wasi_http_guest(tmp_path: Path) -> None:
    from tests.host.legacy_guests import c_client

    page = (ROOT / "docs/hostfuncs.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- script -->\n```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    assert found[1].count("\n") <= 15
    assert "sandboxd" not in found[1]
    file = tmp_path / "script.py"
    file.write_text(found[1])
    with Origin() as origin:
        done = subprocess.run(
            [sys.executable, "-W", "error", str(file), str(c_client()), origin.url("/bytes/5")],
            env={"PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert [seen.target for seen in origin.seen] == ["/bytes/5"]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("completed 0 \n")
    assert done.stdout.endswith("http://127.0.0.1:* ok \n")
