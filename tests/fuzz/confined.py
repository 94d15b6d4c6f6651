"""Reads files in a process of its own, under a limit of memory; run as a script.

Each line on standard input is `[loader, path]`; each line on standard output says what came of it:
`{"value": digest}`, or `{"error": class, "code": exit code, "message": text}` for what lazybench
raises on purpose, or `{"crash": traceback}` for anything else.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lazybench.data.archives import ZipTree, read_members
from lazybench.data.importing.arrays import read_arrays, read_npz
from lazybench.data.importing.catalogue import read_meta
from lazybench.data.importing.folder import read_image_folder
from lazybench.data.importing.split import Preparation, Rows
from lazybench.data.importing.storage import open_imported
from lazybench.data.pickles import load_pickle
from lazybench.data.splits import SPLITS, listed_split
from lazybench.envs.attack.target import load_pictures
from lazybench.envs.datasets.cifar import batch
from lazybench.envs.datasets.mnist import read_idx
from lazybench.envs.own_target.images import read_user_images
from lazybench.envs.own_target.journal import Journal
from lazybench.envs.targets.nets import read_nets
from lazybench.errors import LazybenchError
from lazybench.records import Record, Store, read_lines
from lazybench.runner import checkpoint
from lazybench.runner.run_dir import list_runs
from lazybench.runner.trained import find_run, read_weights
from lazybench.sweep.suite import expand, read_suite

ALLOWANCE_BYTES = 1 << 30
"""What a file may make the process ask for beyond what it holds at the start."""


def zip_members(path: Path) -> Any:
    """All members of a zip."""
    tree = ZipTree(path)
    try:
        return {name: tree.read(name) for name in tree.names()}
    finally:
        tree.close()


def rows(found: Rows) -> Any:
    """All instances of a source that was read."""
    return found.labels, found.read(np.arange(len(found.labels)))


def images_and_labels(folder: Path) -> Any:
    """The images `x.npz` of a folder with the labels beside it."""
    (labels,) = folder.glob("labels.*")
    return read_user_images(folder / "x.npz", labels)


def imported(root: Path) -> Any:
    """The data set `mine` below a data folder."""
    os.environ["LAZYBENCH_DATA"] = str(root)
    opened = open_imported("mine")
    return {split: opened.pool(split).x for split in SPLITS}


LOADERS: Mapping[str, Callable[[Path], Any]] = {
    "zip": zip_members,
    "tar": lambda path: read_members(path, ["in/a", "in/b"], most_bytes=1 << 28),
    "idx": read_idx,
    "pickle": load_pickle,
    "cifar": lambda path: batch(load_pickle(path), str(path), "labels"),
    "npz": lambda path: rows(read_npz(path, Preparation())),
    "images": lambda path: rows(read_image_folder(path, Preparation())),
    "user_images": read_user_images,
    "user_labels": images_and_labels,
    "pictures": lambda path: load_pictures("mine.py:target", str(path)),
    "arrays": lambda path: read_arrays(path, single=True),
    "imported": imported,
    "split": lambda path: listed_split(path, dict.fromkeys("abcdefghijklmno")).of,
    "suite": lambda path: expand(read_suite(str(path))),
    "record": lambda path: Record.from_json(path.read_bytes()),
    "store": lambda path: [list(Store(path).records()), len(Store(path).records().skipped)],
    "reported": lambda path: Store(path).reported(),
    "lines": read_lines,
    "journal": lambda path: len(Journal(path, {"url": "here"})),
    "checkpoint": checkpoint.read,
    "weights": lambda path: read_weights(str(path), path.parent).params,
    "nets": lambda path: read_nets(path, remedy="train it again"),
    "meta": read_meta,
    "runs": list_runs,
    "run": lambda path: find_run(str(path), path.parent).progress,
}


def digest(value: Any) -> str:
    """Return 64 hex digits over a value, arrays and tensors included."""
    found = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            part = part.detach().numpy()
        if isinstance(part, np.ndarray) and part.dtype.hasobject:
            part = part.tolist()
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype}{part.shape}".encode())
            found.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, Mapping):
            for key, item in sorted(part.items(), key=repr):
                found.update(repr(key).encode())
                add(item)
        elif isinstance(part, list | tuple):
            found.update(f"{len(part)}[".encode())
            for item in part:
                add(item)
        else:
            found.update(repr(part).encode("utf-8", "backslashreplace"))

    add(value)
    return found.hexdigest()


def told(loader: str, path: Path) -> dict[str, Any]:
    """Return what came of reading a file."""
    try:
        return {"value": digest(LOADERS[loader](path))}
    except LazybenchError as error:
        return {"error": type(error).__name__, "code": error.exit_code, "message": str(error)}
    except BaseException:
        return {"crash": traceback.format_exc()}


def main() -> None:
    """Answer until the input ends."""
    warnings.simplefilter("error")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ALLOWANCE_BYTES, held + ALLOWANCE_BYTES))
    for line in sys.stdin:
        loader, path = json.loads(line)
        answers.write(json.dumps(told(loader, Path(path))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
