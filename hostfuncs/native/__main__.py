"""`python -m hostfuncs.native` says whether guests are answered in C here, and if not, why."""

import sys

from hostfuncs.native.library import load


def main() -> int:
    """Print it. The exit status is 0 if they are."""
    try:
        library = load()
    except (OSError, ValueError) as error:
        print(f"all host functions run in Python: {error}")
        return 1
    print(f"{len(library.functions)} host functions of preview 1 run in C")
    return 0


if __name__ == "__main__":
    sys.exit(main())
