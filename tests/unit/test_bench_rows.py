"""The rows of a question that may be asked for alone. Not tested here: what is measured."""

import sys

import pytest

from bench import measure, peer


def given(monkeypatch: pytest.MonkeyPatch, *words: str) -> measure.Options:
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    return measure.options("A question.", rows=("a", "b"))


def test_all_are_measured_unless_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch).rows == {"a", "b"}
    assert given(monkeypatch, "--rows", "b").rows == {"b"}


def test_a_row_that_does_not_exist_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        given(monkeypatch, "--rows", "a,c")
    assert "c: the rows are a, b" in capsys.readouterr().err


def test_each_row_beside_daprd_has_a_name_of_its_own() -> None:
    rows = [*peer.small(), *peer.six()]
    assert {row.name for row in rows} == set(peer.ROWS) - {"tails", "cpython", "ruby", "fetch"}
    assert len({row.name for row in rows}) == len({row.what for row in rows}) == len(rows)
