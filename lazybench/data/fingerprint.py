"""The fingerprint of a data set, a hash over its instances and how they are split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def instance_hash(pixels: NDArray[Any]) -> bytes:
    """32 bytes over the type, shape and values of one instance.

    The same pixels give the same hash, whatever their memory layout and byte order.

    Args:
        pixels: decoded source image or vector, any shape, any number type.
    """
    plain = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<"))
    head = f"{plain.dtype.str.lstrip('<|')} {'x'.join(map(str, pixels.shape))}\n"
    return hashlib.sha256(head.encode() + plain.tobytes()).digest()


def content_fingerprint(splits: Mapping[str, Iterable[Iterable[bytes]]]) -> str:
    """64 hex digits over the splits' names and their classes' instances.

    It doesn't depend on packaging, file names, compression, or the order of splits, classes and
    instances; it does on which instances make a class, and on which split a class is in.

    Args:
        splits: for each split the classes, each as the hashes of its instances.

    Reference: the idea of a Merkle tree, R. C. Merkle, "A digital signature based on a
        conventional encryption function", CRYPTO 1987.
    """
    digest = hashlib.sha256(b"lazybench content 1\n")
    for split in sorted(splits):
        classes = sorted(_class_hash(instances) for instances in splits[split])
        digest.update(f"{split} {len(classes)}\n".encode() + b"".join(classes))
    return digest.hexdigest()


def class_order(splits: Mapping[str, Sequence[Iterable[bytes]]]) -> str:
    """8 hex digits over the order of the classes, which numbers them.

    Trials, and the head of a long tail, follow the numbers, so the same content under other names
    of classes is other tasks.

    Args:
        splits: for each split the classes in order, each as the hashes of its instances.
    """
    digest = hashlib.sha256(b"lazybench class order 1\n")
    for split in sorted(splits):
        digest.update(f"{split} {len(splits[split])}\n".encode())
        digest.update(b"".join(_class_hash(instances) for instances in splits[split]))
    return digest.hexdigest()[:8]


def repeated_instances(
    splits: Mapping[str, Sequence[Sequence[bytes]]], classes: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """Return notes on instances that are equal to the bit: in a class, two classes or two splits.

    Args:
        splits: for each split the classes, each as the hashes of its instances.
        classes: for each split the names of its classes, in the same order.
    """
    notes: list[str] = []
    shared: set[bytes] = set()
    seen: set[bytes] = set()
    for split, members in splits.items():
        home: dict[bytes, str] = {}
        doubled: list[str] = []
        several: dict[bytes, tuple[str, str]] = {}
        for name, instances in zip(classes[split], members, strict=True):
            doubled += [name] * (len(instances) - len(set(instances)))
            for digest in set(instances):
                if home.setdefault(digest, name) != name:
                    several.setdefault(digest, (home[digest], name))
        if doubled:
            notes.append(
                f"{len(doubled)} instances of {split} repeat one of their class, equal to the bit, "
                f"as in '{doubled[0]}': a query may be in the support"
            )
        if several:
            one, other = min(several.values())
            notes.append(
                f"{len(several)} instances of {split} are in more than one class, equal to the "
                f"bit, as in '{one}' and '{other}'"
            )
        shared |= seen & home.keys()
        seen |= home.keys()
    if shared:
        notes.append(f"{len(shared)} instances are in more than one split, equal to the bit")
    return tuple(notes)


def _class_hash(instances: Iterable[bytes]) -> bytes:
    return hashlib.sha256(b"".join(sorted(instances))).digest()
