"""Links of the documents, and the script that checks them."""

from pathlib import Path

import pytest

from tests.docs.links import ROOT, anchors, problems


def test_every_link_of_every_document_is_whole() -> None:
    assert problems(ROOT) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("see [a](missing.md)", "missing.md: no such file"),
        ("see [a](other.md#nothing)", "other.md#nothing: no such heading"),
        ("![a](picture.svg)", "picture.svg: no such file"),
        ("see [a](#nothing)", "#nothing: no such heading"),
        ("see [a](../secret.md)", "../secret.md leads out of the repository"),
        ("[a]: missing.md", "missing.md: no such file"),
        ("see [`a`](missing.md)", "missing.md: no such file"),
        ("see `sandboxd/front/gone.py`", "sandboxd/front/gone.py does not exist in this repository"),
        ("see [a]()", "a link has no target"),
    ],
)
def test_a_broken_link_is_found(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "other.md").write_text("# Other\n")
    (tmp_path / "page.md").write_text(f"# Page\n\n{text}\n")
    assert problems(tmp_path) == [f"page.md:3: {reason}"]


@pytest.mark.parametrize(
    "text",
    [
        "see [a](other.md), [b](other.md#the-other-page), [c](#page), [d](https://example.com/x#y)",
        "```\n[a](missing.md)\n```",
        "code:\n\n    [a](missing.md)\n",
        "a span `[a](missing.md)` of code",
        "see `sandboxd/front/` and `bench/results/`",
    ],
)
def test_what_is_whole_or_no_link_passes(tmp_path: Path, text: str) -> None:
    (tmp_path / "sandboxd/front").mkdir(parents=True)
    (tmp_path / "other.md").write_text("# Other\n\n## The `other` page!\n")
    (tmp_path / "page.md").write_text(f"# Page\n\n{text}\n")
    assert problems(tmp_path) == []


def test_anchors_follow_githubs_rule() -> None:
    text = "# One, two: three\n## `code` and *stars*\n## Same\n## Same\n```\n# not a heading\n```\n## [A link](x.md)\n"
    assert anchors(text) == {"one-two-three", "code-and-stars", "same", "same-1", "a-link"}
