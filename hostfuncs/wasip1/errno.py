"""Error numbers of WASI preview 1 (`errno` in typenames.witx), those this host answers with."""

from typing import Final

SUCCESS: Final = 0
BADF: Final = 8
FAULT: Final = 21
INVAL: Final = 28
NOSYS: Final = 52
NOTDIR: Final = 54
NOTSOCK: Final = 57
NOTSUP: Final = 58
SPIPE: Final = 70
NOTCAPABLE: Final = 76
