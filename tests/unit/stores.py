"""Artifacts for the tests of the artifact store, and readings of its files."""

import os
from pathlib import Path

from sandboxd.modules.artifact import open_verified
from sandboxd.modules.fingerprint import Fingerprint
from sandboxd.modules.index_key import NAME
from sandboxd.modules.store import Artifact, Store

FP = Fingerprint(engine="e" * 32, machine="x86_64", features=frozenset({"avx", "avx2"}))
MODULE = "a" * 64
OTHER = "b" * 64


def put(store: Store, content: bytes, module: str = MODULE, fp: Fingerprint = FP) -> Artifact:
    draft = store.draft()
    os.write(draft.fd, content)
    return draft.commit(module, fp, "module")


def files(store: Store) -> list[str]:
    """All files but the key."""
    found = (str(p.relative_to(store.path)) for p in Path(store.path).rglob("*") if p.is_file())
    return sorted(name for name in found if name != NAME)


def load(artifact: Artifact) -> bytes:
    with open_verified(artifact.path) as path:
        return Path(path).read_bytes()
