"""The tables of docs/reference.md and the JSON Schemas, made from the tables that the code runs on."""

import json
import re
from pathlib import Path

from sandboxd.components.metadata import metadata_table
from sandboxd.components.schema import component_schema
from sandboxd.config import reference_table
from sandboxd.config.schema import settings_schema
from sandboxd.errors import ExitCode
from sandboxd.front.answering.outcomes import REFUSALS, TABLE
from sandboxd.limits import Limits
from sandboxd.limits.keys import DEFAULT_CEILINGS
from sandboxd.outcome import Outcome

_EXIT_MEANINGS = {
    ExitCode.OK: "stopped as asked; everything in flight was answered or ended at the drain deadline",
    ExitCode.FAILED: "`check` found problems, or the guest of `run` was ended by the host",
    ExitCode.USAGE: "wrong command line",
    ExitCode.CONFIG: "sandboxd.yaml, a variable or an option has a wrong value",
    ExitCode.COMPONENT: "a component that must load cannot",
    ExitCode.LISTEN: "the address cannot be listened on",
    ExitCode.WORKERS: "workers fail to start again and again, or descriptors, processes or memory run out",
    ExitCode.ZYGOTE_LOST: "the zygote died; what was in flight was finished",
    ExitCode.CELLS: "cells fail to start again and again, and none is ready",
}


def tables() -> dict[str, str]:
    """Return the tables in Markdown by the name between the markers of docs/reference.md."""
    return {
        "settings": reference_table().strip(),
        "metadata": metadata_table(Limits(), DEFAULT_CEILINGS).strip(),
        "outcomes": _outcomes(),
        "exit-codes": _exit_codes(),
    }


def update(text: str) -> str:
    """Return `text` with the tables between its markers renewed.

    Raises:
        ValueError: a marker is missing.
    """
    for name, table in tables().items():
        pattern = re.compile(rf"(<!-- {name}: made by `sandboxd reference` -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"the marker of the table {name} stands {count} times in the text")
    return text


def update_file(path: Path) -> None:
    """Renew the tables of a file."""
    path.write_text(update(path.read_text(encoding="utf-8")), encoding="utf-8")


def schemas() -> dict[str, str]:
    """Return the JSON Schemas as texts, by the name that `sandboxd reference --schema` gives them."""
    made = {"settings": settings_schema(), "component": component_schema()}
    return {name: json.dumps(schema, indent=2, ensure_ascii=False) + "\n" for name, schema in made.items()}


def _outcomes() -> str:
    lines = ["| outcome | status | gRPC | errorCode | message | log level |", "|---|---|---|---|---|---|"]
    for outcome, row in TABLE.items():
        message = row.message
        if outcome is Outcome.REJECTED:
            message = "; or: ".join(REFUSALS.values())
        level = {10: "debug", 20: "info", 30: "warning", 40: "error"}[row.level]
        code = f"`{row.code}`" if row.code else ""
        text = message.replace("|", "\\|")
        lines.append(f"| `{outcome}` | {row.status} | {row.grpc} | {code} | {text} | {level} |")
    return "\n".join(lines)


def _exit_codes() -> str:
    lines = ["| status | name | meaning |", "|---|---|---|"]
    lines += [f"| {int(code)} | {code.name} | {_EXIT_MEANINGS[code]} |" for code in ExitCode]
    return "\n".join(lines)
