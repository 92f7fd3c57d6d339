# SPDX-License-Identifier: Apache-2.0
"""What S3 does its own way: parts, conditions, what is left when a writer fails."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from storage.errors import FileExistsInStoreError, MissingFileError, StoreAccessError, StoreUrlError
from storage.filesystem import open_store
from storage.publish import publish, publish_bytes
from storage.retrying import RetryingStore

if TYPE_CHECKING:
    from tests.support.s3_server import S3Server

s3_store = pytest.importorskip("storage.s3_store", reason="install the extra conepacs[s3]")
CONTENT = os.urandom((11 << 20) + 7)


@pytest.fixture
def store(s3_server: S3Server) -> RetryingStore:
    """A store of small parts."""
    opened = open_store(s3_server.make_bucket())
    assert isinstance(opened, RetryingStore)
    bare: Any = opened.bare
    bare.part_bytes = 5 << 20
    return opened


def produce(handle) -> None:
    for start in range(0, len(CONTENT), 3_000_000):
        handle.write(CONTENT[start : start + 3_000_000])


def unfinished(store: RetryingStore) -> list[str]:
    """Keys of uploads in parts that were neither completed nor aborted."""
    bare: Any = store.bare
    return [upload["Key"] for upload in bare._call("list_multipart_uploads").get("Uploads", [])]


def test_a_large_file_goes_out_in_parts_and_appears_whole(store: RetryingStore) -> None:
    seen = []

    def watched(handle) -> None:
        produce(handle)
        seen.append((store.exists("a/large"), unfinished(store)))

    publish(store, "a/large", watched, kind="write_once")
    assert seen == [(False, ["a/large"])]
    assert store.read_bytes("a/large") == CONTENT
    assert [entry.path for entry in store.list_folder("a")] == ["a/large"]
    with pytest.raises(FileExistsInStoreError):
        publish(store, "a/large", produce, kind="write_once")


def test_of_two_uploads_in_parts_the_second_to_end_is_refused_and_leaves_nothing(store: RetryingStore) -> None:
    def overtaken(handle) -> None:
        produce(handle)
        publish_bytes(store, "a", b"first", kind="write_once")

    with pytest.raises(FileExistsInStoreError, match="/a: exists already"):
        publish(store, "a", overtaken, kind="write_once")
    assert store.read_bytes("a") == b"first"
    assert unfinished(store) == []


def test_a_producer_that_fails_in_the_middle_leaves_no_parts(store: RetryingStore) -> None:
    def broken(handle) -> None:
        produce(handle)
        raise KeyError("the detector file ends here")

    with pytest.raises(KeyError):
        publish(store, "a", broken, kind="replace")
    assert store.list_folder("") == []
    assert unfinished(store) == []


def test_a_part_damaged_on_the_way_is_sent_again_and_those_before_it_are_not(
    store: RetryingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare: Any = store.bare
    sent: list[int] = []
    call = bare._call

    def flip(method: str, **arguments: Any) -> Any:
        if method == "upload_part":
            sent.append(arguments["PartNumber"])
            if sent.count(2) == 1 and arguments["PartNumber"] == 2:
                body = bytearray(arguments.pop("Body"))
                body[1000] ^= 1
                arguments.pop("ContentMD5")  # moto does not look at it, other servers refuse here
                return call(method, Body=bytes(body), **arguments)
        return call(method, **arguments)

    monkeypatch.setattr(bare, "_call", flip)
    publish(store, "a", produce, kind="replace")
    assert sent == [1, 2, 2, 3]
    assert store.read_bytes("a") == CONTENT


def test_wrong_keys_a_missing_bucket_and_no_server_are_told(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = pytest.importorskip("botocore.exceptions").ClientError({"Error": {"Code": "InvalidAccessKeyId"}}, "put")
    denied = PermissionError("The key does not exist in our records")
    denied.__cause__ = error
    assert isinstance(s3_store._s3_error("s3://b/a", denied), StoreAccessError)
    missing = open_store(f"s3://no-such-bucket-here/x?endpoint={s3_server.endpoint}")
    with pytest.raises(MissingFileError, match="s3://no-such-bucket-here/x/a: no such bucket"):
        publish_bytes(missing, "a", b"x", kind="replace")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3:///prefix", "expected s3://bucket/prefix"),
        ("s3://bucket/prefix?user=me", "expected s3://bucket/prefix"),
        ("s3://bucket/a/../b", r"got '\.', '\.\.'"),
    ],
)
def test_bad_urls_are_refused(url: str, reason: str) -> None:
    with pytest.raises(StoreUrlError if "expected s3" in reason else ValueError, match=reason):
        open_store(url)


def test_the_server_is_named_by_the_url_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("storage.s3_store.s3fs.S3FileSystem", lambda **options: made.append(options))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    s3_store.open_s3_store("s3://scans/pacs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    s3_store.open_s3_store("s3://scans/pacs")
    s3_store.open_s3_store("s3://scans/pacs?endpoint=https://other:9000&region=eu-1")
    amazon, ours, other = made
    assert (amazon["endpoint_url"], amazon["client_kwargs"]) == (None, {})
    assert "s3" not in amazon["config_kwargs"]
    assert ours["endpoint_url"] == "http://store:9000"
    assert ours["config_kwargs"]["s3"] == {"addressing_style": "path"}
    assert (other["endpoint_url"], other["client_kwargs"]) == ("https://other:9000", {"region_name": "eu-1"})
    assert not any(options["use_listings_cache"] for options in made)
