"""Files for guests, whatever their ABI: mounts of the host's folders, a folder in memory, quotas.

settings = FileSettings(
    mounts=(Mount(source="/srv/data", target="/data"),), tmp=Tmp(target="/tmp", size=1 << 20, files=100)
)
files = settings.open(limits, strict=False)   # for each run
for target, folder in files.preopened: ...
files.close()

Every failure is an OSError with Linux's errno. The ABIs translate it. Nothing here touches guest memory.
"""

from hostfuncs.files.base import Entry, File, Folder, Kind, Stat
from hostfuncs.files.calls import available
from hostfuncs.files.quota import Quota
from hostfuncs.files.settings import Files, FileSettings, Mount, Tmp

__all__ = ["Entry", "File", "FileSettings", "Files", "Folder", "Kind", "Mount", "Quota", "Stat", "Tmp", "available"]
