"""Guests' URLs, guests from files, and downloads that are kept and checked again."""

import hashlib
import os
from pathlib import Path

import pytest

from sandboxd.components.url import guest_name
from sandboxd.modules import source
from sandboxd.modules.download import redacted
from sandboxd.modules.errors import SourceError, UnreachableError
from sandboxd.modules.store import Store
from tests.unit.module_origins import GUEST, fetch, origin, reply, run

DIGEST = hashlib.sha256(GUEST).hexdigest()


# URLs and files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "missing url"),
        ("guest.wasm", "invalid URL: guest.wasm"),
        ("oci://ghcr.io/x", "TODO oci"),
        ("ftp://x/y.wasm", "unsupported URL scheme: ftp"),
        ("HTTP://x/y.wasm", "unsupported URL scheme: HTTP"),
        ("file:guest.wasm", "invalid URL: file:guest.wasm"),
        ("http://", "invalid URL: http://"),
        ("https:///x.wasm", "invalid URL: https:///x.wasm"),
        ("http://[::1/x", "invalid URL: http://[::1/x"),
    ],
)
def test_urls_are_judged_in_dapr_s_words(url: str, text: str) -> None:
    with pytest.raises(SourceError) as caught:
        source.scheme_of(url)
    assert caught.value.message == f"wasm: failed to parse metadata: {text}"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("file://guest.wasm", "guest"),
        ("file:///opt/guests/upper.v2.wasm", "upper.v2"),
        ("file://a%20b.wasm", "a%20b"),
        ("file://dir/guest", "guest"),
        ("http://h/ruby%2F3.2/ruby-3.2.0-slim.wasm?x=/y.wasm#z", "ruby-3.2.0-slim"),
        ("https://h/a%20b.wasm", "a b"),
        ("https://h/dir/", "dir"),
        ("https://h", "."),
        ("https://h/", "/"),
        ("https://h/.wasm", ""),
    ],
)
def test_argv0_is_go_s_path_base_without_the_suffix(url: str, name: str) -> None:
    assert guest_name(url) == name


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pa@ss@h:1/x.wasm", "https://h:1/x.wasm"),
        ("https://h/x.wasm?X-Signature=abc#f", "https://h/x.wasm?xxxxx"),
        ("https://h/x@y", "https://h/x@y"),
        ("https://u@h?a@b", "https://h?xxxxx"),
        ("file:///a\nb", "file:///a: b"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_files_relative_and_absolute(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b%20.wasm").write_bytes(GUEST)
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        for url in ("file://a b%20.wasm", "file://./a b%20.wasm", f"file://{tmp_path}/a b%20.wasm"):
            got = await fetch(url, store)
            assert (got.data, got.digest, got.scheme, got.cache_status) == (GUEST, DIGEST, "file", "file")
        assert (await fetch("file://a b%20.wasm", store, pin=DIGEST)).digest == DIGEST
        with pytest.raises(SourceError, match="the component pins 0000"):
            await fetch("file://a b%20.wasm", store, pin="0" * 64)

    run(main())


def test_paths_that_are_no_files(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("long.wasm").write_bytes(bytes(100_001))
    Path("just.wasm").write_bytes(bytes(100_000))

    async def message(path: str) -> str:
        with pytest.raises(SourceError) as caught:
            await fetch(f"file://{path}", store)
        return caught.value.message.removeprefix("wasm: failed to parse metadata: ")

    async def main() -> None:
        assert await message("gone.wasm") == "open gone.wasm: no such file or directory"
        assert await message("") == "invalid URL: file://"
        assert await message("/") == "read /: is a directory"
        assert await message("fifo") == "open fifo: not a regular file"
        assert await message("long.wasm") == "long.wasm is longer than 100000 bytes"
        assert await message("a\0b") == "invalid URL: file://a\\x00b"
        assert "surrogates not allowed" in await message("\ud800")
        assert len((await fetch("file://just.wasm", store)).data) == 100_000
        # The kernel says such files are empty.
        assert (await fetch("file:///proc/version", store)).data.startswith(b"Linux")

    run(main())


# HTTP ----------------------------------------------------------------------------------------------------------------


def test_a_download_is_kept_and_revalidated(store: Store) -> None:
    async def main() -> None:
        first = reply(ETag='"v1"', Last_Modified="Wed, 01 Jan 2025 00:00:00 GMT")
        other = GUEST + b"!"
        async with origin(first, reply(304, b""), reply(304, b""), reply(body=other, ETag='"v2"')) as it:
            got = await fetch(it.url, store)
            assert (got.data, got.digest, got.cache_status, got.scheme) == (GUEST, DIGEST, "downloaded", "http")
            assert "if-none-match" not in it.heads[0].lower()
            got = await fetch(it.url, store)
            assert (got.data, got.cache_status) == (GUEST, "revalidated")
            assert 'if-none-match: "v1"' in it.heads[1].lower()
            assert "if-modified-since: wed, 01 jan 2025 00:00:00 gmt" in it.heads[1].lower()
            assert (await fetch(it.url, store)).cache_status == "revalidated"
            got = await fetch(it.url, store)
            assert (got.data, got.cache_status) == (other, "downloaded")

    run(main())


def test_a_damaged_kept_copy_is_downloaded_unconditionally(store: Store) -> None:
    async def main() -> None:
        async with origin(reply(ETag='"v1"')) as it:
            await fetch(it.url, store)
            Path(store.path, "modules", f"{DIGEST}.wasm").write_bytes(GUEST[:-1])
            got = await fetch(it.url, store)
            assert (got.data, got.cache_status) == (GUEST, "downloaded")
            assert "if-none-match" not in it.heads[1].lower()

    run(main())


def test_304_without_a_condition_is_an_error(store: Store) -> None:
    async def main() -> None:
        async with origin(reply(304, b"")) as it:
            with pytest.raises(SourceError, match="received 304 status code"):
                await fetch(it.url, store)

    run(main())


def test_a_restart_works_while_the_origin_is_down(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with origin(reply()) as it:  # no validators: the copy is kept all the same
            url = it.url
            await fetch(url, store)
        got = await fetch(url, store)
        assert (got.data, got.cache_status) == (GUEST, "stale")
        assert "connection refused; the copy of the last download is used" in caplog.text
        with pytest.raises(SourceError, match="the component pins"):
            await fetch(url, store, pin="0" * 64)
        assert (await fetch(url, store, pin=DIGEST)).cache_status == "pinned"

    run(main())


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_the_kept_copy_replaces_an_origin_that_fails(store: Store, status: int) -> None:
    async def main() -> None:
        async with origin(reply(ETag='"1"'), reply(status, b"")) as it:
            await fetch(it.url, store)
            assert (await fetch(it.url, store)).cache_status == "stale"
            assert len(it.heads) == 3

    run(main())


@pytest.mark.parametrize("status", [404, 410, 401, 403])
def test_a_final_answer_is_believed_even_with_a_kept_copy(store: Store, status: int) -> None:
    async def main() -> None:
        async with origin(reply(ETag='"1"'), reply(status, b"gone")) as it:
            await fetch(it.url, store)
            with pytest.raises(SourceError, match=f"received {status} status code"):
                await fetch(it.url, store)

    run(main())


@pytest.mark.parametrize("status", [404, 403, 204, 206, 301])
def test_dapr_s_words_for_a_status_that_is_not_200(store: Store, status: int) -> None:
    async def main() -> None:
        async with origin(reply(status, b"")) as it:
            with pytest.raises(SourceError) as caught:
                await fetch(it.url, store)
            expected = f'wasm: failed to parse metadata: received {status} status code from "{it.url}"'
            assert caught.value.message == expected
            assert not isinstance(caught.value, UnreachableError)
            assert len(it.heads) == 1

    run(main())


def test_a_pinned_module_is_asked_for_once(store: Store) -> None:
    async def main() -> None:
        async with origin(reply()) as it:
            assert (await fetch(it.url, store, pin=DIGEST)).cache_status == "downloaded"
            assert (await fetch(it.url, store, pin=DIGEST)).cache_status == "pinned"
            assert len(it.heads) == 1
            with pytest.raises(SourceError, match=f"has sha256 {DIGEST}, and the component pins {'1' * 64}"):
                await fetch(it.url, store, pin="1" * 64)

    run(main())


def test_a_guest_with_another_digest_than_its_pin_is_not_kept(store: Store) -> None:
    async def main() -> None:
        async with origin(reply()) as it:
            with pytest.raises(SourceError, match="pins"):
                await fetch(it.url, store, pin="1" * 64)
        assert not Path(store.path, "modules").exists()

    run(main())


def test_progress_tells_bytes_and_the_announced_length(store: Store) -> None:
    seen: list[tuple[int, int]] = []

    async def main() -> None:
        async with origin(reply()) as it:
            await fetch(it.url, store, on_bytes=lambda done, total: seen.append((done, total)))

    run(main())
    assert seen
    assert all(0 < done <= len(GUEST) and total == len(GUEST) for done, total in seen)


def test_a_store_that_cannot_be_written_only_costs_the_copy(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    Path(store.path).chmod(0o777)

    async def main() -> None:
        async with origin(reply()) as it:
            assert (await fetch(it.url, store)).cache_status == "downloaded"
        assert "is not stored" in caplog.text

    run(main())
