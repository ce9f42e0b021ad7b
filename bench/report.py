"""Tables and pictures of the records in bench/results: `python -m bench.report`.

Tables go into README.md between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`; pictures, as PNG and SVG, into
bench/pictures. Without matplotlib (the `bench` extra) there are tables only.
"""

import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measure import RESULTS, markdown

README = Path(__file__).parent / "README.md"
PICTURES = Path(__file__).parent / "pictures"

Content = dict[str, Any]


def records(names: Iterable[str] | None = None) -> dict[str, Content]:
    """Name -> record, of those that are there."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        if names is None or path.stem in names:
            found[path.stem] = json.loads(path.read_text())
    return found


def bars_of(content: Content) -> list[dict[str, Any]]:
    """The bars of a record that is one of `bench.measure.Record`."""
    bars: list[dict[str, Any]] = content.get("bars") or []
    return [bar for bar in bars if isinstance(bar, dict) and {"what", "want", "got", "met"} <= bar.keys()]


def bar_rows(found: Mapping[str, Content]) -> list[dict[str, Any]]:
    """The verdict table."""
    rows = []
    for name, content in found.items():
        for bar in bars_of(content):
            sign = "at least" if bar["at_least"] else "at most"
            rows.append(
                {
                    "question": name,
                    "what": bar["what"],
                    "bar": f"{sign} {bar['want']:g} {bar['unit']}".strip(),
                    "measured": f"{bar['got']:g} {bar['unit']}".strip(),
                    "": "met" if bar["met"] else "**missed**",
                }
            )
    return rows


def verdict(names: Sequence[str]) -> int:
    """Print the bars against what was measured; how many were missed."""
    rows = bar_rows(records(names))
    if rows:
        print()
        print(markdown(rows, list(rows[0])))
    return sum(row[""] != "met" for row in rows)


def table(content: Content) -> str:
    """The rows of a record, and on what they were measured."""
    rows = content.get("rows") or []
    columns = content.get("columns") or [key for key in (rows[0] if rows else {}) if not key.startswith("rounds")]
    about = content.get("machine") or {}
    packages = about.get("packages") or {}
    parts = [
        f"{about.get('cores')} cores ({about.get('cpu')}), Linux {about.get('kernel')}, Python {about.get('python')}"
        + (f" ({about['python_call_ns']} ns a call)" if about.get("python_call_ns") else ""),
        *(f"{name} {packages[name]}" for name in ("wasmtime", "uvicorn", "uvloop", "hypercorn") if packages.get(name)),
        f"commit {about.get('commit')}{' with changes' if about.get('changed') else ''}, {content.get('at', '')}",
        f"load average at the end {about.get('load_average')}",
    ]
    notes = [f"- {note}" for note in content.get("notes") or []]
    return "\n".join(
        [markdown(rows, columns), "", *notes, f"- {', '.join(parts)}" if about.get("cores") else ""]
    ).rstrip()


def fill(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers of `name` replaced; unchanged without them."""
    pattern = re.compile(rf"(<!-- bench:{re.escape(name)} -->\n).*?(<!-- /bench:{re.escape(name)} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def write() -> None:
    """Refresh README.md and the pictures."""
    found = records()
    text = README.read_text()
    rows = bar_rows(found)
    if rows:
        text = fill(text, "bars", markdown(rows, list(rows[0])))
    for name, content in found.items():
        text = fill(text, name, table(content))
    README.write_text(text)
    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed (pip install -e '.[bench]')", file=sys.stderr)
        return
    PICTURES.mkdir(exist_ok=True)
    for name, content in found.items():
        if content.get("plot") and content.get("rows"):
            draw(name, content)


def draw(name: str, content: Content) -> None:
    """One picture, as PNG and SVG."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = name  # the same figures give the same file
    from matplotlib import pyplot

    plot, rows = content["plot"], content["rows"]
    sideways = plot.get("sideways", False)
    figure, axes = pyplot.subplots(figsize=(8, 2 + 0.35 * len(rows) if sideways else 4.5), layout="constrained")
    if plot["kind"] == "lines":
        for label, points in _series(rows, plot["series"]).items():
            xs = [point[plot["x"]] for point in points]
            axes.plot(xs, [point[plot["y"]] for point in points], marker="o", label=label)
    else:
        groups = _series(rows, plot.get("series", []))
        labels = [f"{row[plot['x']]}" for row in next(iter(groups.values()))]
        sets = [
            (f"{label} {y}".strip(), [row[y] for row in points]) for label, points in groups.items() for y in plot["y"]
        ]
        width = 0.8 / len(sets)
        for number, (label, values) in enumerate(sets):
            at = [place + number * width for place in range(len(labels))]
            if sideways:
                bars = axes.barh(at, values, width, label=label)
                axes.bar_label(bars, [f"{value:,}" for value in values], padding=2, fontsize=7)
            else:
                axes.bar(at, values, width, label=label)
        ticks = [place + 0.4 - width / 2 for place in range(len(labels))]
        if sideways:
            axes.set_yticks(ticks, labels, fontsize=8)
            axes.invert_yaxis()
            axes.margins(x=0.1)
        else:
            axes.set_xticks(ticks, labels, wrap=True, fontsize=8)
    if plot.get("logx"):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    if plot.get("logy"):
        axes.set_yscale("log")
    axes.set_xlabel(plot.get("xlabel", ""))
    axes.set_ylabel(plot.get("ylabel", ""))
    axes.set_title(content.get("title", name), fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    for kind in ("png", "svg"):
        figure.savefig(PICTURES / f"{name}.{kind}", dpi=110, metadata={"Date": None} if kind == "svg" else None)
    pyplot.close(figure)


def _series(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
    out: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        out.setdefault(" ".join(str(row[key]) for key in keys), []).append(row)
    return out


if __name__ == "__main__":
    verdict([path.stem for path in RESULTS.glob("*.json")])
    write()
