"""The fingerprint of a data set: over what its images show and how they are split, nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def instance_hash(pixels: NDArray[Any]) -> bytes:
    """32 bytes over the type, shape and values of one instance.

    The same pixels give the same hash however they lie in memory and on whatever byte order.

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


def _class_hash(instances: Iterable[bytes]) -> bytes:
    return hashlib.sha256(b"".join(sorted(instances))).digest()
