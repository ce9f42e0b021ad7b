"""Rebuilds the committed guests from source: `python -m tests.guests.build [--check] [NAME...]`.

Says for each whether it is the same as before, and writes the toolchains' versions beside them. With `--check` nothing
is written and a difference makes it exit 1. A guest whose toolchain is not installed is left as it is and said so.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.guests.cache import ToolMissingError
from tests.guests.recipes import GUESTS, ROOT, VERSIONS, build, committed_versions


def main(argv: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 1 if `--check` found a difference or a build failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.guests.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on a difference")
    parser.add_argument("names", nargs="*", metavar="NAME", help="guests to build (default: all)")
    options = parser.parse_args(argv)
    wanted = [recipe for recipe in GUESTS if not options.names or recipe.name in options.names]
    unknown = set(options.names) - {recipe.name for recipe in GUESTS}
    if unknown:
        parser.error(f"no such guest: {', '.join(sorted(unknown))}; there are {', '.join(r.name for r in GUESTS)}")
    failed = False
    versions = committed_versions() if (ROOT / VERSIONS).exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for number, recipe in enumerate(wanted):
            fresh = Path(folder) / str(number) / recipe.output.name
            try:
                build(recipe, fresh)
            except ToolMissingError as missing:
                print(f"left as it is  {recipe.output}: {missing}")
                continue
            except RuntimeError as error:
                print(f"FAILED         {error}", file=sys.stderr)
                failed = True
                continue
            target = ROOT / recipe.output
            size = f"{fresh.stat().st_size:,} bytes"
            if target.is_file() and target.read_bytes() == fresh.read_bytes():
                print(f"same           {recipe.output} ({size})")
            elif options.check:
                print(f"DIFFERENT      {recipe.output} ({size})")
                failed = True
            else:
                print(f"{'changed' if target.is_file() else 'new':<14} {recipe.output} ({size})")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(fresh.read_bytes())
            versions[recipe.toolchain.name] = recipe.toolchain.version()
    if not options.check:
        (ROOT / VERSIONS).write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
