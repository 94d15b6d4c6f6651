"""`data get` says what came, where it lies and how sure it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lazybench.data.download import Fetched, Progress
from lazybench.errors import DataUnavailable


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The calls that reach the downloader, which answers without a network."""
    calls: list[dict[str, Any]] = []

    def fetch(name: str, *, mirror: str, replace: bool, progress: Progress) -> list[Fetched]:
        calls.append({"name": name, "mirror": mirror, "replace": replace})
        if mirror == "http://bad":
            raise DataUnavailable(f"{name}: http://bad/file couldn't be downloaded")
        for done in (50, 100, 30, 100):
            progress("file.tar.gz", done, 100)
        place = tmp_path / "file.tar.gz"
        return [
            Fetched(place, "http://good/file.tar.gz", 100, "ab" * 16, "cd" * 32, True),
            Fetched(place, "http://good/file.tar.gz", 100, "", "ef" * 32, False),
        ]

    monkeypatch.setattr("lazybench.data.download.fetch", fetch)
    return calls


def test_get(lazybench: Any, asked: list[dict[str, Any]]) -> None:
    done = lazybench("data", "get", "cifarfs", "--from", "http://good", "--replace")
    assert done.code == 0
    assert asked == [{"name": "cifarfs", "mirror": "http://good", "replace": True}]
    sure, bare, last = done.out.splitlines()
    assert sure.endswith("100 bytes, from http://good/file.tar.gz; md5 " + "ab" * 16
                         + " as published")  # fmt: skip
    assert "downloaded before; no checksum is published; its sha256 is " in bare
    assert last.startswith("cifarfs is in ")
    assert done.err.count("file.tar.gz (bytes): 0/100") == 2, "two tries at it"
    assert "file.tar.gz (bytes): 100/100" in done.err
    quiet = lazybench("data", "get", "cifarfs", "--quiet")
    assert quiet.err == ""
    facts = json.loads(lazybench("data", "get", "cifarfs", "--json").out)
    assert [file["fresh"] for file in facts["files"]] == [True, False]


def test_what_is_installed_is_left_alone(lazybench: Any, asked: list[dict[str, Any]]) -> None:
    done = lazybench("data", "get", "glyphs")
    assert done.code == 0
    assert "glyphs is installed already, in " in done.out
    assert json.loads(lazybench("data", "get", "glyphs", "--json").out)["files"] == []
    assert asked == []


def test_errors_have_their_exit_codes(lazybench: Any, asked: list[dict[str, Any]]) -> None:
    done = lazybench("data", "get", "cifarfs", "--from", "http://bad")
    assert done.code == 69
    assert done.err.startswith("error: cifarfs: http://bad/file couldn't be downloaded")


def test_unknown_names(lazybench: Any) -> None:
    done = lazybench("data", "get", "cifarf")
    assert done.code == 2
    assert "Did you mean: cifarfs" in done.err
