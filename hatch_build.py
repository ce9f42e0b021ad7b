"""Compiles the optional part in C when the package is built or installed. Without a C compiler, it is left out."""

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "hostfuncs/native/_preview1.so"


class NativeFunctions(BuildHookInterface[Any]):
    """Builds `hostfuncs/native/preview1.c`, and marks the wheel as one of this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See BuildHookInterface."""
        root = Path(self.root)
        building = runpy.run_path(str(root / "hostfuncs" / "native" / "build.py"))
        try:
            # One that is there may be of another source, another machine, or of before it was switched off.
            (root / LIBRARY).unlink(missing_ok=True)
            building["build"]()
        except (building["UnavailableError"], OSError) as error:
            self.app.display_warning(f"the host functions stay in Python: {error}")
            return
        build_data["artifacts"].append(LIBRARY)
        build_data["pure_python"] = False
        if version == "standard":
            # The library knows nothing of Python's own interface.
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
