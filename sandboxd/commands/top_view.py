"""The status document as tables for a terminal. Names and reasons come from others: nothing in them reaches it."""

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sandboxd.errors import printable

_BARS: Final = " ▁▂▃▄▅▆▇█"
_GRAPH: Final = 20
_WIDEST: Final = 32
"""The widest that a name makes its column."""
Json = dict[str, Any]


def printable_throughout(found: Any) -> Any:
    """Return a document with every text in it printable: whoever answers may be another server than was meant."""
    if isinstance(found, dict):
        return {printable(key): printable_throughout(value) for key, value in found.items()}
    if isinstance(found, list):
        return [printable_throughout(value) for value in found]
    return printable(found) if isinstance(found, str) else found


def view(status: Json, rows: int = 0) -> RenderableType:
    """Return the status to be printed.

    Parameters:
        status: the document, `printable_throughout`.
        rows: lines of the terminal; 0 for any number.
    """
    bindings = sorted(status["bindings"], key=lambda binding: (-binding["now"], -binding["rate"], binding["name"]))
    left = max(4, rows - 10) if rows else 10**9
    shown, workers = bindings[:left], status["workers"][: max(0, left - len(bindings))]
    parts: list[RenderableType] = [_head(status), _pools(status), Text(), _bindings(shown)]
    if len(shown) < len(bindings):
        parts.append(Text(f"and {len(bindings) - len(shown)} more bindings", style="dim"))
    if workers:
        parts += [Text(), _workers(workers)]
    return Group(*parts)


def _head(status: Json) -> Text:
    server, front = status["server"], status["front"]
    good = server["state"] == "ready"
    text = Text(f"sandboxd {server['version']}  {server['host']}  up {seconds(server['uptimeSeconds'])}  ")
    text.append(server["state"].upper(), style="bold green" if good else "bold red")
    if server["cells"] > 1:
        text.append(f"  {server['cellsReady']} of {server['cells']} cells")
    use = front["utilisation"]
    text.append(f"  front {percent(use)} of {front['threads']} thread{'s' * (front['threads'] > 1)}", style=_level(use))
    text.append(f", lag {seconds(front['lagSeconds'])}  memory {size(server['rssBytes'])}")
    if not server["reload"]["ok"]:
        text.append(f"\nreload refused: {server['reload']['error']}", style="red")
    if server["missing"]:
        text.append(f"\nwaits for {', '.join(server['missing'])} {server['waitsFor']}", style="red")
    return text


def _pools(status: Json) -> Text:
    text = Text()
    latest = status["history"]["utilisation"][-1:] or [None]
    for label, pool in status["pools"].items():
        workers = pool["workers"]
        share = workers["busy"] / workers["limit"]
        text.append(f"{label}: ")
        text.append(f"{workers['busy']} busy / {workers['limit']} workers", style=_level(share))
        text.append(f", {workers['idle']} idle, {workers['starting']} starting")
        queue = pool["queue"]
        text.append(f"  queue {queue} of {pool['queueLimit']} (most {pool['queueMost']})", "yellow" if queue else "")
        refused = ", ".join(f"{reason} {count}" for reason, count in pool["rejected"].items() if count)
        text.append(f"  refused {refused}" if refused else "", style="yellow")
        text.append(f"  gen {', '.join(map(str, sorted(set(pool['generations']))))}\n")
    text.append(f"utilisation {percent(latest[0])} ", style=_level(latest[0]))
    text.append(graph(status["history"]["utilisation"], most=1.0), style="green")
    return text


def _table(columns: Sequence[str], rows: Sequence[Sequence[Text]], *, last: str = "") -> Table:
    """Return a table whose columns are as wide as what is in them, but for `last`, which gets what is left."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=bool(last))
    for number, name in enumerate(columns):
        width = max(len(name), *(row[number].cell_len for row in rows)) if rows else len(name)
        table.add_column(name, justify="right" if number else "left", no_wrap=True, min_width=min(width, _WIDEST))
    if last:
        table.add_column(last, no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        table.add_row(*row)
    return table


def _bindings(bindings: Sequence[Json]) -> Table:
    columns = (
        "BINDING",
        "KIND",
        "NOW/MAX",
        "QUEUE",
        "REQ/S",
        "5 MIN",
        "OK",
        "P50",
        "P99",
        "CPU",
        "MEMORY/MAX",
        "DENIED",
    )
    return _table(columns, [_binding(one) for one in bindings], last="LAST FAILURE")


def _binding(one: Json) -> list[Text]:
    full = one["limit"] and one["now"] >= one["limit"] and one["queue"]  # beyond its share it may have what is idle
    ok = one["okShare"]
    last = one["lastFailure"]
    why = one["why"] or (f"{last['outcome']} {seconds(last['secondsAgo'])} ago {last['reason']}" if last else "-")
    return [
        Text(one["name"], style="" if one["ready"] else "bold red"),
        Text(one["kind"] or "not ready"),
        Text(f"{one['now']}/{one['limit']}{' FULL' if full else ''}", style="red" if full else ""),
        Text(str(one["queue"]), style="yellow" if one["queue"] else ""),
        Text(f"{one['rate']:.1f}"),
        Text(graph(one["history"]["requests"]), style="green"),
        Text(percent(ok), style="" if ok is None or ok > 0.99 else "yellow" if ok > 0.95 else "red"),
        Text(seconds(one["p50Seconds"])),
        Text(seconds(one["p99Seconds"])),
        Text(percent(one["cpuUse"])),
        Text(f"{size(one['memoryPeakBytes'])}/{size(one['memoryLimitBytes'])}"),
        Text(str(one["denied"]), style="yellow" if one["denied"] else ""),
        # Its line ends are escaped, as all that is not printable.
        Text(why.partition("\\n")[0], style="dim"),
    ]


def _workers(workers: Sequence[Json]) -> Table:
    rows = [
        [
            Text(str(one["pid"])),
            Text(one["state"], style="green" if one["state"] == "busy" else ""),
            Text(", ".join(one["bindings"]) or "-"),
            Text(seconds(one["forSeconds"]) if one["forSeconds"] else "-"),
            Text(seconds(one["ageSeconds"])),
            Text(str(one["runs"])),
            Text(size(one["rssBytes"])),
            Text(seconds(one["cpuSeconds"])),
        ]
        for one in workers
    ]
    return _table(("WORKER", "STATE", "BINDING", "FOR", "AGE", "RUNS", "MEMORY", "CPU"), rows)


def graph(values: Sequence[float | None], most: float = 0.0) -> str:
    """Return the last values as bars.

    Parameters:
        values: the oldest first.
        most: what a full bar stands for; 0 for the greatest of them.
    """
    found = [value or 0.0 for value in values[-_GRAPH:]]
    top = most or max(found, default=0.0) or 1.0
    return "".join(_BARS[min(len(_BARS) - 1, round(value / top * (len(_BARS) - 1)))] for value in found)


def seconds(value: float | None) -> str:
    """Return a time for people."""
    if value is None:
        return "-"
    for bound, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (100.0, 1.0, "s"), (6000.0, 1 / 60, "min")):
        if value < bound:
            return f"{value * factor:.{1 if value * factor < 10 else 0}f} {unit}"
    return f"{value / 3600:.0f} h" if value < 172_800 else f"{value / 86_400:.0f} d"


def size(value: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "K", "M", "G"):
        if value < 1024:
            return f"{value:.0f}{unit}"
        value /= 1024
    return f"{value:.0f}T"


def percent(value: float | None) -> str:
    """Return a share for people."""
    return "-" if value is None else f"{value * 100:.{1 if 0.99 < value < 1 else 0}f} %"


def _level(value: float | None) -> str:
    return "" if value is None or value < 0.75 else "yellow" if value < 0.9 else "red"
