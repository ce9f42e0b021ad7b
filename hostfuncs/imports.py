"""The names a core module may import: one list for host functions and for those who look at a module's bytes.

Plain data: reading it loads neither wasmtime nor an HTTP client.
"""

from typing import Final

WASIP1: Final = "wasi_snapshot_preview1"
"""The import module of WASI preview 1."""

WASIP1_FUNCTIONS: Final = frozenset(
    """args_get args_sizes_get clock_res_get clock_time_get environ_get environ_sizes_get fd_advise fd_allocate fd_close
    fd_datasync fd_fdstat_get fd_fdstat_set_flags fd_fdstat_set_rights fd_filestat_get fd_filestat_set_size
    fd_filestat_set_times fd_pread fd_prestat_dir_name fd_prestat_get fd_pwrite fd_read fd_readdir fd_renumber fd_seek
    fd_sync fd_tell fd_write path_create_directory path_filestat_get path_filestat_set_times path_link path_open
    path_readlink path_remove_directory path_rename path_symlink path_unlink_file poll_oneoff proc_exit proc_raise
    random_get sched_yield sock_accept sock_recv sock_send sock_shutdown""".split()  # noqa: SIM905 -- a line for each would be fifty lines
)
"""All functions of WASI snapshot-01."""

HTTP_TYPES: Final = "types"
HTTP_STREAMS: Final = "streams"
HTTP_OUTGOING: Final = "default-outgoing-HTTP"
LEGACY_HTTP: Final = (HTTP_TYPES, HTTP_STREAMS, HTTP_OUTGOING)
"""The import modules of Dapr's wasi-http for core modules (wasi-go at the commit Dapr pins, `imports/wasi_http`)."""
