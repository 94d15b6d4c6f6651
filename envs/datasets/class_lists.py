"""Published lists of classes, read from the package's own files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from lazybench.data.pool import SPLITS, Split
from lazybench.errors import DataUnavailable

_FEW_SHOT = "fewshot_classes.json"
_FEW_SHOT_SHA256 = "0a32ee96308e9b7da00d2c3ff1358593a81d1e0716c36d5becc5088e95c822ee"


class Named(NamedTuple):
    """A class and its super-category, the class itself where there is none."""

    name: str
    group: str


Roster = Mapping[Split, tuple[Named, ...]]
"""The classes of each split."""


@cache
def packaged_list(file: str, sha256: str) -> Any:
    """Return the content of a JSON file among the package's assets, to be read only.

    Raises:
        DataUnavailable: it isn't the one that this version shipped.
    """
    path = resources.files("lazybench.envs") / "assets" / file
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataUnavailable(f"{path} can't be read ({error}); reinstall lazybench") from error
    got = hashlib.sha256(text.encode()).hexdigest()
    if got != sha256:
        raise DataUnavailable(
            f"{path} is damaged: sha256 {got}, expected {sha256}; reinstall lazybench"
        )
    return json.loads(text)


def few_shot_roster(data: str) -> Roster:
    """Return the published split of `cifarfs`, `fc100`, `miniimagenet` or `tieredimagenet`.

    Classes are sorted by name. The file names the paper and the repository behind each list.

    Raises:
        DataUnavailable: the list isn't the one that this version shipped.
    """
    lists = packaged_list(_FEW_SHOT, _FEW_SHOT_SHA256)[data]
    return {split: _sorted(lists[split]) for split in SPLITS}


def _sorted(lists: list[str] | dict[str, list[str]]) -> tuple[Named, ...]:
    grouped = {name: [name] for name in lists} if isinstance(lists, list) else lists
    return tuple(sorted(Named(name, group) for group in grouped for name in grouped[group]))
