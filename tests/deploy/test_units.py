"""The systemd unit and the Dockerfile: understood by systemd, and in step with the command line and the sources."""

import re
import shlex
from pathlib import Path

from sandboxd.cli import _parser
from sandboxd.config import load
from sandboxd.errors import ExitCode
from tests.deploy.files import DEPLOY, run_tool
from tests.guests.cache import ROOT

UNIT = DEPLOY / "systemd/sandboxd.service"
DOCKERFILE = DEPLOY / "docker/Dockerfile"


def setting(name: str) -> str:
    value: str
    (value,) = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return value


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    # verify wants the program to exist; everything else of the unit stays as it is
    text = UNIT.read_text().replace("/opt/sandboxd/bin/sandboxd", "/bin/true")
    copy = tmp_path / "sandboxd.service"
    copy.write_text(text)
    run_tool("systemd-analyze", "verify", "--man=no", str(copy), package="systemd")


def test_the_unit_keeps_what_compiled_code_needs_and_drops_the_rest() -> None:
    assert setting("MemoryDenyWriteExecute") == "no"
    assert setting("CapabilityBoundingSet") == ""
    assert setting("NoNewPrivileges") == "yes"
    assert setting("CacheDirectoryMode") == "0700"


def test_systemd_rates_the_unit_as_well_confined(tmp_path: Path) -> None:
    run_tool("systemd-analyze", "security", "--offline=yes", "--threshold=20", str(UNIT), package="systemd")


def test_the_unit_starts_the_server_with_options_and_settings_it_has() -> None:
    program, *arguments = shlex.split(setting("ExecStart"))
    assert Path(program).name == "sandboxd"
    assert _parser().parse_args(arguments).config == Path("/etc/sandboxd/sandboxd.yaml")
    config, problems = load(DEPLOY / "systemd/sandboxd.yaml", environ={})
    assert not problems
    assert int(setting("TimeoutStopSec").removesuffix("s")) * 1000 > config.drain.timeout_ms


def test_only_exits_that_a_restart_cannot_mend_end_the_unit() -> None:
    codes = {ExitCode(int(code)) for code in setting("RestartPreventExitStatus").split()}
    assert codes == {ExitCode.CONFIG, ExitCode.COMPONENT}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_the_dockerfile_copies_what_there_is() -> None:
    ignored = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = [rest.split() for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    sources = {source for *several, _ in copied for source in several}
    assert sources == sent, "the build's context holds exactly what is copied"
    for source in sources:
        assert (ROOT / source).exists(), source


def test_the_dockerfile_runs_as_nobody_and_with_options_the_server_has() -> None:
    after_user = [word for word, _ in instructions()]
    assert [rest for word, rest in instructions() if word == "USER"] == ["65532:65532"]
    compiles = [n for n, (word, rest) in enumerate(instructions()) if word == "RUN" and "sandboxd compile" in rest]
    assert compiles, "artifacts are compiled at build"
    assert all(n > after_user.index("USER") for n in compiles), "by the user that will run them"
    (command,) = (rest for word, rest in instructions() if word == "CMD")
    compile_line = instructions()[compiles[0]][1].removeprefix("sandboxd ")
    serving = _parser().parse_args(re.findall(r'"([^"]*)"', command))
    compiling = _parser().parse_args(shlex.split(compile_line))
    assert serving.resources_path == compiling.resources_path
    variables = dict(re.findall(r"(SANDBOXD_\w+)=(\S+)", DOCKERFILE.read_text()))
    config, problems = load(None, environ=variables)
    assert not problems
    assert str(config.cache.folder) == "/var/cache/sandboxd/store"


def test_the_components_of_the_quickstart_name_guests_that_are_there() -> None:
    components = sorted((DEPLOY / "quickstart/components").glob("*.yaml"))
    assert len(components) >= 3
    for component in components:
        text = component.read_text()
        (url,) = re.findall(r'"file://([^"]+)"', text)
        assert (ROOT / url).read_bytes()[:8] == b"\0asm\1\0\0\0"
        assert text.startswith("# try: curl "), "what `make run` prints for the binding"
