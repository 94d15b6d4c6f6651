"""Write the data sheets and the glyphs' Croissant file from the catalogue.

    python tools/write_datasheets.py docs/datasets

Nothing in that folder is edited by hand; `tests/tools/test_write_datasheets.py` compares.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lazybench.data.folders import SOURCES
from lazybench.envs.datasets.glyphs import FROZEN, FROZEN_SHA256, Frozen, read_frozen
from lazybench.references import bibliography
from lazybench.registry import DATASETS, ENVS
from lazybench.specs import DataSpec

COMMAND = "python tools/write_datasheets.py docs/datasets"
CROISSANT = "glyphs.croissant.json"
_NOTE = f"<!-- Made by `{COMMAND}` from the catalogue; don't edit. -->\n\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Write every file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to write to")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


def files() -> dict[str, str]:
    """Return every file's text by its name."""
    specs = [spec for spec in DATASETS.specs() if spec.origin == "lazybench"]
    sheets = {f"{spec.id}.md": sheet(spec) for spec in specs}
    croissant = json.dumps(glyphs_croissant(read_frozen()), indent=2, ensure_ascii=False)
    return {"index.md": _index(specs), **sheets, CROISSANT: croissant + "\n"}


def sheet(spec: DataSpec) -> str:
    """Return the data sheet of one data set."""
    lines = [f"{_NOTE}# {spec.id}", "", f"{spec.about[0].upper()}{spec.about[1:]}.", ""]
    for heading, text in spec.sheet.items():
        lines += [f"## {heading}", "", text, ""]
    lines += ["## Environments", "", _environments(spec.id), ""]
    lines += ["## How to get it", "", _how(spec), ""]
    lines += ["## Licence", "", f"{spec.licence[0].upper()}{spec.licence[1:]}.", ""]
    lines += ["## To cite", "", f"`lazybench cite {spec.id}` prints these as BibTeX.", ""]
    lines += [f"- {bibliography()[key].text}" for key in spec.cites]
    return "\n".join(lines) + "\n"


def _index(specs: Sequence[DataSpec]) -> str:
    lines = [
        f"{_NOTE}# Data sets",
        "",
        "What each is, how it was made, whose it is and what to mind. `lazybench show ID` prints "
        "the same, `lazybench data list` says what is installed here.",
        "",
        "| data set | comes with the package | licence | what |",
        "|---|---|---|---|",
        *(
            f"| [{spec.id}]({spec.id}.md) | {'yes' if spec.embedded else 'no'} | {spec.licence} | "
            f"{spec.about} |"
            for spec in specs
        ),
        "",
        f"[{CROISSANT}](https://mlcommons.org/croissant/) describes the embedded glyphs to "
        f"machines, in the Croissant format: it lies beside these pages "
        f"as `docs/datasets/{CROISSANT}`.",
        "",
        "```{toctree}",
        ":hidden:",
        "",
        *(spec.id for spec in specs),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _environments(data: str) -> str:
    listed = [spec.id for spec in ENVS.specs() if spec.data == data and spec.origin == "lazybench"]
    return ", ".join(f"`{name}`" for name in listed) or "None is listed."


def _how(spec: DataSpec) -> str:
    if spec.embedded:
        return "It comes with the package."
    remotes = SOURCES.get(spec.id, ())
    lines = [f"`lazybench data get {spec.id}` fetches", ""]
    for remote in remotes:
        checksum = f", md5 `{remote.md5}`" if remote.md5 else ", no published checksum"
        lines.append(f"- <{remote.url}>{checksum}")
    return "\n".join(
        [*lines, "", f"`lazybench data where {spec.id}` says where a copy of yours should lie."]
    )


def glyphs_croissant(frozen: Frozen) -> dict[str, Any]:
    """Return the frozen glyphs' description in Croissant 1.0, JSON-LD by MLCommons.

    Croissant has no reader for npz, so the bitmaps are described as a file with its sha256, and the
    scripts of each split as records.
    """
    spec: DataSpec = DATASETS.resolve("glyphs").spec
    content = FROZEN.read_bytes()
    if hashlib.sha256(content).hexdigest() != FROZEN_SHA256:
        raise SystemExit(f"{FROZEN} isn't the file that the code expects")
    scripts = Counter(zip(frozen.splits, frozen.scripts, strict=True))
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "glyphs",
        "description": " ".join([spec.about + ".", *spec.sheet.values()]),
        "version": "1.0.0",
        "license": "https://dejavu-fonts.github.io/License.html",
        "creator": {"@type": "sc:Organization", "name": "lazybench contributors"},
        "citeAs": bibliography()["lazybench"].bibtex,
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "glyphs.npz",
                "name": "glyphs.npz",
                "description": "numpy arrays: bitmaps [13298, 28, 28] uint8, class after class; "
                "count [1705]; points (code points); names, scripts and splits as lines of UTF-8",
                "contentUrl": "../../envs/assets/glyphs.npz",
                "contentSize": f"{len(content)} B",
                "encodingFormat": "application/octet-stream",
                "sha256": FROZEN_SHA256,
            }
        ],
        "recordSet": [_record_set(scripts)],
    }


def _record_set(scripts: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    kinds = {"split": "sc:Text", "script": "sc:Text", "characters": "sc:Integer"}
    about = {
        "split": "train, val or test: no script is in two of them",
        "script": "Unicode script, or kind of symbol",
        "characters": "how many characters of it there are",
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "scripts",
        "name": "scripts",
        "description": "the scripts of each split, and how many characters each has",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"scripts/{name}",
                "name": name,
                "description": about[name],
                "dataType": kind,
            }
            for name, kind in kinds.items()
        ],
        "data": [
            {"scripts/split": split, "scripts/script": script, "scripts/characters": count}
            for (split, script), count in sorted(scripts.items())
        ],
    }


_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


if __name__ == "__main__":
    main()
