"""Status of data sets, for the command line, where some are missing, damaged or embedded."""

from __future__ import annotations

from pathlib import Path

import pytest

from lazybench.data import folders
from lazybench.data.folders import data_root
from lazybench.errors import UnknownName
from lazybench.registry import DATASETS
from lazybench.specs import DataSpec

PROBE_SET = '''
"""Data set whose fingerprint is what its file says."""
from dataclasses import dataclass
from lazybench.data.folders import data_root
from lazybench.errors import DataUnavailable

prepared = {}

@dataclass
class Opened:
    fingerprint: str
    name: str = "probed"
    prep: str = "1"
    source: str = "a text file"

    def reread(self):
        return read()

def read():
    try:
        return (data_root() / "probed" / "text").read_text()
    except OSError as error:
        raise DataUnavailable(f"text is missing: {error}") from error

def check():
    read()
    return data_root() / "probed"

def open_probed():
    return Opened(prepared.setdefault("print", read()))
'''


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAZYBENCH_DATA", str(tmp_path / "data"))
    # The registry knows a file by its content: the path in it keeps the tests' modules apart.
    (tmp_path / "probe_set.py").write_text(f"# {tmp_path}\n{PROBE_SET}")
    (tmp_path / "plain_set.py").write_text(
        f"# {tmp_path}\nfrom lazybench.errors import DataUnavailable\n"
        "class Plain:\n    fingerprint = 'f' * 64\n    source = 'nowhere'\n"
        "def open_plain():\n    return Plain()\n"
        "def open_broken():\n    raise DataUnavailable('the disk is gone')\n"
    )
    specs = [
        DataSpec("t-probed", f"{tmp_path / 'probe_set.py'}:open_probed", probe=("probed",)),
        DataSpec("t-folder", f"{tmp_path / 'plain_set.py'}:open_plain", probe=("one", "two")),
        DataSpec("t-plain", f"{tmp_path / 'plain_set.py'}:open_plain"),
        DataSpec("t-inside", f"{tmp_path / 'plain_set.py'}:open_plain", embedded=True),
        DataSpec("t-broken", f"{tmp_path / 'plain_set.py'}:open_broken"),
        DataSpec("t-typo", f"{tmp_path / 'plain_set.py'}:open_palin"),
    ]
    # The built-in catalogue may need data that aren't here: only these are looked at.
    monkeypatch.setattr(DATASETS, "_specs", {spec.id: spec for spec in specs})


def put(text: str) -> None:
    (data_root() / "probed").mkdir(parents=True, exist_ok=True)
    (data_root() / "probed" / "text").write_text(text)


def test_status_of_each_kind() -> None:
    found = {one.name: one for one in folders.status()}
    assert {name: one.installed for name, one in found.items()} == {
        "t-broken": False,
        "t-folder": False,
        "t-inside": True,
        "t-plain": True,
        "t-probed": False,
        "t-typo": False,
    }
    assert found["t-broken"].detail == "the disk is gone"
    assert "has no 'open_palin'" in found["t-typo"].detail
    assert f"expected one or two below {data_root()}" in found["t-folder"].detail
    assert "text is missing" in found["t-probed"].detail
    put("a")
    (data_root() / "two").mkdir()
    later = {one.name: one for one in folders.status()}
    assert later["t-folder"].path == data_root() / "two"
    probed = later["t-probed"]
    assert probed.installed
    assert probed.path == data_root() / "probed"
    assert probed.verified is None


def test_where_names_the_folder_or_where_it_belongs(tmp_path: Path) -> None:
    assert folders.where("t-probed") == data_root()
    put("a")
    assert folders.where("t-probed") == data_root() / "probed"
    assert folders.where("t-inside") == tmp_path
    with pytest.raises(UnknownName, match="t-probde"):
        folders.where("t-probde")


def test_verify_sees_files_that_changed_after_they_were_prepared() -> None:
    put("a" * 64)
    whole = folders.verify("t-probed")
    assert (whole.installed, whole.verified, whole.fingerprint) == (True, True, "a" * 64)
    put("b" * 64)
    changed = folders.verify("t-probed")
    assert changed.verified is False
    assert "b" * 64 in changed.detail
    (data_root() / "probed" / "text").unlink()
    gone = folders.verify("t-probed")
    assert (gone.installed, gone.verified) == (False, False)
    assert "text is missing" in gone.detail


def test_verify_claims_no_more_than_it_did() -> None:
    assert folders.verify("t-plain").verified is None
    assert folders.verify("t-inside").verified is True
    assert folders.verify("t-broken").verified is False
