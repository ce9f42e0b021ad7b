"""sandboxd.yaml, SANDBOXD_ variables and the command line."""

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxd.config import Config, load, model, read, reference_table, render
from sandboxd.config.model import PoolConfig
from sandboxd.config.settings import settings as all_settings
from sandboxd.errors import ConfigError, ExitCode
from sandboxd.files.problems import Severity
from sandboxd.limits import EngineSettings, Limits, OutboundSettings
from sandboxd.limits.about import Kind, described
from sandboxd.limits.keys import DEFAULT_CEILINGS

ENVIRON = {"HOME": "/home/me"}


def written(folder: Path, text: str) -> Path:
    path = folder / "sandboxd.yaml"
    path.write_text(text)
    return path


def error_of(folder: Path, text: str, environ: dict[str, str] = ENVIRON) -> str:
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ=environ)
    assert caught.value.exit_code is ExitCode.CONFIG
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("processors", "workers", "cells"),
    [(2, 2, 1), (7, 7, 1), (8, 8, 2), (32, 8, 2), (32, 32, 8), (64, 64, 16), (64, 3, 1), (4, 64, 1)],
)
def test_a_cell_has_at_least_four_processors_and_workers(
    monkeypatch: pytest.MonkeyPatch, processors: int, workers: int, cells: int
) -> None:
    monkeypatch.setattr(model, "cpu_count", lambda: processors)
    config = Config(pool=PoolConfig(workers=workers))
    assert config.cell_count == cells
    assert dataclasses.replace(config, cells=5).cell_count == 5


def test_defaults_without_a_file() -> None:
    config, problems = load(None, environ=ENVIRON)
    assert not problems
    assert config.listen.port == 3500
    assert config.listen.max_body_bytes == 4 * 1024 * 1024
    assert config.limits == Limits()
    assert config.ceilings == DEFAULT_CEILINGS
    assert config.wasm == EngineSettings()
    assert config.cache.folder == Path("/home/me/.cache/sandboxd")
    assert config.pool.workers >= 1
    assert config.api_token is None
    assert config.egress.default_allowed_hosts is None


def test_the_cache_folder_follows_xdg() -> None:
    def folder(**environ: str) -> str:
        return str(load(None, environ=environ)[0].cache.folder)

    assert folder(XDG_CACHE_HOME="/var/cache", HOME="/h") == "/var/cache/sandboxd"
    assert folder(XDG_CACHE_HOME="relative", HOME="/h") == "/h/.cache/sandboxd"
    assert folder(SANDBOXD_CACHE_FOLDER="~/c", HOME="/h") == "/h/c"


def test_command_line_over_variable_over_file_over_default(tmp_path: Path) -> None:
    path = written(tmp_path, "pool: {workers: 3, queueLimit: 30, queueTimeout: 3s}\n")
    environ = ENVIRON | {"SANDBOXD_POOL_WORKERS": "4", "SANDBOXD_POOL_QUEUE_LIMIT": "40"}
    config, _ = load(
        path, environ=environ, overrides={"pool.workers": 5, "listen.host": None, "engine.kind": "uvicorn"}
    )
    assert (config.pool.workers, config.pool.queue_limit, config.pool.queue_timeout_ms) == (5, 40, 3000)
    assert config.listen.host == "127.0.0.1"
    assert config.engine.kind == "uvicorn"


def test_every_setting_has_a_variable_that_works() -> None:
    """Each variable gets a value that is not the default and must arrive in its field."""
    other = {
        "NUMBER": lambda s: s.about.unit.format(s.about.low + 1),
        "FLAG": lambda s: "false" if s.default is True else "true",
        "CHOICE": lambda s: s.about.choices[-1],
        "TEXT": lambda s: {
            "proxy": "http://proxy:1",
            "transport": "package.module:factory",
            "listen": "127.0.0.1:1",
        }.get(s.field, "text"),
        "TEXTS": lambda s: {
            "block_networks": "private",
            "allowed_origins": "http://a",
            "nat64_prefixes": "2001:db8::/96",
        }.get(s.field, "a, b"),
        "CERTIFICATES": lambda s: '[{"origin": "https://a", "certificate": "c", "key": "k"}]',
        "FOLDER": lambda s: "/f",
    }
    defaults, _ = load(None, environ=ENVIRON)
    for setting in all_settings():
        text = other[setting.about.kind.name](setting)
        environ = ENVIRON | {setting.variable: text}
        if setting.field in ("tls_certificate", "tls_key"):
            environ |= {"SANDBOXD_ENGINE_TLS_CERTIFICATE": "text", "SANDBOXD_ENGINE_TLS_KEY": "text"}
        if setting.variable == "SANDBOXD_WASM_MAX_MEMORY":
            environ |= {"SANDBOXD_WASM_MAX_MEMORY": "64Mi"}
            text = "64Mi"
        config, problems = load(None, environ=environ)
        assert not problems, setting
        section = getattr(config, setting.section) if setting.section else config
        before = getattr(defaults, setting.section) if setting.section else defaults
        assert getattr(section, setting.field) == setting.from_text(text), setting
        if setting.about.kind.name != "NUMBER" or setting.default not in (setting.about.low + 1, dataclasses.MISSING):
            assert getattr(section, setting.field) != getattr(before, setting.field), setting


def test_long_nonsense_makes_a_short_line(tmp_path: Path) -> None:
    for text in ("? " + "k" * 100_000 + "\n: 1\n", "!" + "t" * 100_000 + " x\n"):
        for problem in read(written(tmp_path, text), environ=ENVIRON).problems:
            assert len(str(problem)) < 4_100


def test_variables_are_unique_and_no_setting_is_forgotten() -> None:
    names = [setting.variable for setting in all_settings()]
    assert len(set(names)) == len(names)
    assert "SANDBOXD_LIMITS_CEILINGS_MEMORY_LIMIT" in names
    expected = {("", field.name) for field in dataclasses.fields(Config) if not dataclasses.is_dataclass(field.type)}
    for field in dataclasses.fields(Config):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            expected |= {(field.name, inner.name) for inner in dataclasses.fields(field.type)}
    assert {(s.section, s.field) for s in all_settings()} == expected - {("", "api_token")}


def test_the_tables_name_every_limit_and_their_defaults_are_in_range() -> None:
    for section in (Limits(), DEFAULT_CEILINGS, EngineSettings(), OutboundSettings()):
        assert [field for field, _ in described(type(section))] == list(dataclasses.fields(section))
        for field, about in described(type(section)):
            if about.kind is Kind.NUMBER:
                about.check(getattr(section, field.name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pool:\n  wrkers: 2\n", "sandboxd.yaml:2: error: pool.wrkers is not a setting (did you mean workers?)"),
        ("pol: {}\n", "sandboxd.yaml:1: error: pol is not a setting (did you mean pool?)"),
        ("pool:\n  queue_limit: 2\n", "pool.queue_limit is not a setting (did you mean queueLimit?)"),
        ("\npool: {workers: 0}\n", "sandboxd.yaml:2: error: pool.workers: 0 is below the least allowed, 1"),
        ("pool: {workers: '4'}\n", "pool.workers: text where a whole number is expected"),
        ("pool: {workers: true}\n", "pool.workers: true or false where a whole number is expected"),
        ("pool: {workers: 1.5}\n", "pool.workers: a number where a whole number is expected"),
        ("pool: {workers: null}\n", "pool.workers: nothing where a whole number is expected"),
        ("pool: {queueTimeout: 5}\n", "pool.queueTimeout: a duration without a unit; write 5s or 5ms"),
        ("pool: {queueTimeout: 5x}\n", "pool.queueTimeout: not a duration"),
        ("listen: {maxBodySize: 1Tib}\n", "listen.maxBodySize: not a size"),
        ("listen: {maxBodySize: 1Ti}\n", "is above the most allowed, 128Mi"),
        ("listen: {host: 7}\n", "listen.host: a number where text is expected, put it in quotes"),
        ("listen: {allowedOrigins: '*'}\n", "text where a list of texts is expected"),
        ("listen: {allowedOrigins: [http://a/b]}\n", "'http://a/b' is not an origin"),
        ("engine: {kind: granian}\n", "'granian' is none of auto, hypercorn, uvicorn"),
        ("engine: {tlsKey: k}\n", "engine.tlsCertificate is missing"),
        ("engine: {kind: uvicorn, tlsKey: k, tlsCertificate: c}\n", "uvicorn does not serve TLS"),
        ("pool: 3\n", "pool is a number; it must be a mapping of settings"),
        ("- a\n", "the file is a list; it must be a mapping"),
        ("cells: 1\ncells: 2\n", "sandboxd.yaml:2: error: cells is set twice"),
        ("a: [\n", "not YAML"),
        ("listen: {apiToken: secret}\n", "the API token comes from the variable DAPR_API_TOKEN only"),
        ("egress: {blockNetworks: [10.0.0.1/8]}\n", "has bits set beyond its prefix"),
        ("egress: {blockNetworks: [intranet]}\n", "'intranet' is not a network"),
        ("egress: {nat64Prefixes: ['2001:db8::/65']}\n", "'2001:db8::/65' is not a NAT64 prefix (RFC 6052)"),
        ("egress: {proxy: 'socks5://u:hunter2@p:1'}\n", "egress.proxy is not http://[user:password@]host:port"),
        ("egress: {proxy: 'https://u:hunter2@p:1'}\n", "egress.proxy is not http://[user:password@]host:port"),
        ("egress: {proxy: 'http://u:hunter2@p'}\n", "egress.proxy is not http://[user:password@]host:port"),
        ("egress: {proxy: 'http://u:hunter2@p:1/a'}\n", "egress.proxy is not http://[user:password@]host:port"),
        ("egress: {proxy: 'http://u:hunter2@p:0'}\n", "egress.proxy is not http://[user:password@]host:port"),
        ("egress: {transport: package.module}\n", "'package.module' does not name a function"),
        ("egress: {transport: '../a:b'}\n", "'../a:b' does not name a function"),
        ("egress: {clientCertificates: [{origin: a}]}\n", "a list of mappings with origin, certificate and key"),
        ("limits: {timeout: 2h}\n", "limits.timeout 2h is above limits.ceilings.timeout 1h"),
        ("wasm: {maxMemory: 1Gi}\nlimits: {ceilings: {memoryLimit: 2Gi}}\n", "memoryLimit 2Gi is above wasm.maxMemory"),
        ("app: &a [*a]\n", "is inside the value to which it refers"),
        ("strictSandbox: 'true'\n", "text where true or false is expected"),
        ('appId: "a\\nb"\n', "control character"),
    ],
)
def test_errors_name_place_cause_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    error = error_of(tmp_path, text)
    assert message in error
    assert "sandboxd.yaml:" in error
    assert "hunter2" not in error


def test_all_errors_are_named_at_once(tmp_path: Path) -> None:
    error = error_of(tmp_path, "pool: {workers: 0}\nlisten: {port: 99999}\n", ENVIRON | {"SANDBOXD_CELLS": "x"})
    assert "pool.workers" in error
    assert "listen.port" in error
    assert "variable SANDBOXD_CELLS: not a whole number" in error


def test_defaults_follow_lower_ceilings(tmp_path: Path) -> None:
    path = written(tmp_path, "wasm: {maxMemory: 64Mi}\nlimits: {ceilings: {timeout: 5s}}\n")
    config, _ = load(path, environ=ENVIRON)
    assert config.ceilings.memory_bytes == config.limits.memory_bytes == 64 * 1024 * 1024
    assert config.limits.timeout_ms == 5000


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: \xc3", b"a: \x01", b"x" * (1024 * 1024 + 1)])
def test_files_that_are_no_text(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sandboxd.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load(path, environ=ENVIRON)


def test_a_missing_file_and_a_pipe(tmp_path: Path) -> None:
    import os

    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "absent", environ=ENVIRON)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path / "pipe", environ=ENVIRON)


def test_unknown_variables_are_warned_about_and_those_of_kubernetes_are_not() -> None:
    environ = ENVIRON | {
        "SANDBOXD_POOL_WORKER": "3",
        "SANDBOXD_CONFIG": "/etc/sandboxd.yaml",
        "SANDBOXD_PORT": "tcp://10.0.0.1:3500",
        "SANDBOXD_PORT_3500_TCP_ADDR": "10.0.0.1",
        "SANDBOXD_SERVICE_HOST": "10.0.0.1",
        "SANDBOXD_SERVICE_PORT_HTTP": "3500",
    }
    _, problems = load(None, environ=environ)
    assert [problem.severity for problem in problems] == [Severity.WARNING]
    assert "SANDBOXD_POOL_WORKER is not a setting" in problems[0].message
    assert problems[0].remedy == "did you mean SANDBOXD_POOL_WORKERS?"


def test_the_token_comes_from_the_environment_and_is_never_shown() -> None:
    config, _ = load(None, environ=ENVIRON | {"DAPR_API_TOKEN": "hunter2", "NAMESPACE": "prod"})
    assert config.api_token == "hunter2"
    assert config.namespace == "prod"
    assert "hunter2" not in render(config)
    assert "hunter2" not in repr(config)


def test_printed_settings_load_back(tmp_path: Path) -> None:
    text = """
    appId: "yes"
    namespace: "007"
    resourcesPaths: [./a b, "1e5"]
    egress:
      defaultAllowedHosts: []
      clientCertificates: [{origin: "https://*.a", certificate: c.pem, key: k.pem}]
      proxy: http://user:pw@proxy:3128
    limits: {timeout: 1m30s250ms, memoryLimit: 100000000}
    engine: {http2: false}
    """
    config, _ = load(written(tmp_path, text), environ=ENVIRON)
    again, problems = load(written(tmp_path, render(config)), environ={"HOME": "/elsewhere", "NAMESPACE": "other"})
    assert again == config
    assert not problems


_PARTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["5s", "4Mi", "*", "auto"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted({k for s in all_settings() for k in s.path})), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(_PARTS)
def test_any_tree_of_values_is_read_or_refused_with_problems(
    tmp_path_factory: pytest.TempPathFactory, tree: object
) -> None:
    import json

    path = tmp_path_factory.mktemp("c") / "sandboxd.yaml"
    path.write_text(json.dumps(tree))
    reading = read(path, environ=ENVIRON)
    if reading.config is None:
        assert any(problem.severity is Severity.ERROR and problem.message for problem in reading.problems)
    else:
        path.write_text(render(reading.config))
        assert load(path, environ=ENVIRON)[0] == reading.config


@settings(max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_problems(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("c") / "sandboxd.yaml"
    path.write_bytes(data)
    reading = read(path, environ=ENVIRON)
    assert reading.config is not None or reading.problems


@given(st.dictionaries(st.sampled_from([s.variable for s in all_settings()]), st.text(max_size=12), max_size=4))
def test_any_variables_are_read_or_refused_with_problems(environ: dict[str, str]) -> None:
    reading = read(None, environ=ENVIRON | environ)
    assert reading.config is not None or reading.problems


def test_the_reference_table_has_a_row_for_every_setting() -> None:
    rows = reference_table().splitlines()
    assert len(rows) == 2 + len(all_settings())
    assert all(row.count("|") - row.count("\\|") == 6 for row in rows)
    assert any(
        re.match(r"\| `pool.queueTimeout` \| `10s` \| duration, 1ms to 1h \| `SANDBOXD_POOL_QUEUE_TIMEOUT`", r)
        for r in rows
    )
