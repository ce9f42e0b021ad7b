"""Checks the links of every Markdown file: `python -m tests.docs.links` prints what is wrong and exits with 1.

Checked are relative links (the file is there), anchors (GitHub's rule for headings), and paths of this repository that
stand in `code`, so that no document names a module that has moved. Links to other sites are not followed: there is no
network.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]

_SKIPPED = frozenset(("build", "dist", "node_modules", "__pycache__"))
"""Folders of generated files. Folders whose names begin with a dot are passed over too."""
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]*)>?(?:\s+\"[^\"]*\")?\s*\)")
_DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)")
_CODE = re.compile(r"(`+)(.+?)\1")
_PATH = re.compile(r"(?:sandboxd|hostfuncs|tests|bench|deploy|docs|\.ci)(?:/[\w.-]+)*(?:/|/[\w.-]+\.[a-z]+)")
_BUILT = re.compile(r"bench/results/|deploy/quickstart/aggregate/build/")
"""What commands of the documents make."""


def problems(root: Path) -> list[str]:
    """Every broken link of the Markdown files below `root`, as `file:line: what is wrong`."""
    found: list[str] = []
    for file in markdown_files(root):
        for line, text in _prose(file.read_text(encoding="utf-8")):
            bare = _CODE.sub(lambda match: " " * len(match[0]), text)
            targets = [match[1] for match in _LINK.finditer(_without_code_in_targets(text))]
            targets += [match[1] for match in _DEFINITION.finditer(bare)]
            wrong = [reason for target in targets if (reason := _fault(root, file, target))]
            for code in _CODE.finditer(text):
                path = code[2].strip()
                if _PATH.fullmatch(path) and not _BUILT.match(path) and not (root / path).exists():
                    wrong.append(f"{path} does not exist in this repository")
            found += [f"{file.relative_to(root)}:{line}: {reason}" for reason in wrong]
    return found


def markdown_files(root: Path) -> list[Path]:
    """Every Markdown file below `root` but those in generated or hidden folders, sorted."""
    found: list[Path] = []
    for folder, names, files in os.walk(root):
        names[:] = [name for name in names if name not in _SKIPPED and not name.startswith(".")]
        found += [Path(folder, name) for name in files if name.endswith(".md")]
    return sorted(found)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    found: set[str] = set()
    for _, line in _prose(text):
        heading = _HEADING.match(line)
        if heading is None:
            continue
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[2])
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        unique, count = slug, 0
        while unique in found:
            count += 1
            unique = f"{slug}-{count}"
        found.add(unique)
    return found


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines outside fenced and indented code, with their numbers."""
    fence = ""
    blank = True
    indented = False
    for number, line in enumerate(text.splitlines(), 1):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1] == fence:
                fence = ""
        elif mark:
            fence = mark[1]
        else:
            # An indented block begins after an empty line, and not within a list.
            indented = line.startswith("    ") and (indented or blank)
            if not indented:
                yield number, line
            blank = not line.strip() or indented
            continue
        blank = False


def _without_code_in_targets(text: str) -> str:
    """Code spans may stand in the text of a link; one that holds a whole link is no link."""
    return _CODE.sub(lambda match: match[0] if "](" not in match[2] else " " * len(match[0]), text)


def _fault(root: Path, file: Path, target: str) -> str:
    """Return what is wrong with one link; empty if nothing is."""
    if not target:
        return "a link has no target"
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return ""
    aim = file if not parts.path else (file.parent / unquote(parts.path))
    try:
        aim.resolve().relative_to(root.resolve())
    except ValueError:
        return f"{target} leads out of the repository"
    if not aim.exists():
        return f"{target}: no such file"
    if (
        parts.fragment
        and aim.suffix == ".md"
        and unquote(parts.fragment) not in anchors(aim.read_text(encoding="utf-8"))
    ):
        return f"{target}: no such heading"
    return ""


if __name__ == "__main__":
    wrong = problems(ROOT)
    print("\n".join(wrong) or f"links of {len(markdown_files(ROOT))} Markdown files are whole")
    sys.exit(1 if wrong else 0)
