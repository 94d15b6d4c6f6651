"""Report of attacks on a user's own target: Markdown, JSON, CSV, images and a picture."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lazybench._version import __version__
from lazybench.envs.observations import grid
from lazybench.envs.own_target.attack import Attacked, AttackOutcome
from lazybench.errors import OutputUnavailable
from lazybench.files import first_free, open_file, plain, read_file, write_bytes, write_json
from lazybench.stats import wilson
from lazybench.tables import csv_cell, markdown_text

REPORT, FACTS, TABLE = "report.md", "report.json", "images.csv"
ADVERSARIALS, SHEET = "adversarials.npz", "sheet.png"
NAMES = (REPORT, FACTS, TABLE, ADVERSARIALS, SHEET)

_TITLE = "# Robustness of "
_SHOWN = 20
_SHOWN_CHANGES = 10
_SHOWN_CLASSES = 100
_CAPTION_PX = 13
"""Height of the line under a row of tiles."""
_OF_ONE_RUN = ("asked", "unanswered", "replayed", "classes")
"""Facts that differ between runs of the same results, or that earlier reports lack."""
_LEAST_TILE_PX = 96
"""Size of a tile's longer side, to which smaller images are enlarged by a whole number."""
_BAD = {
    "missed": "an answer that misses the attack's aim",
    "original": "the true class as the answer",
}


def need_own_folder(folder: Path) -> None:
    """Check that a report may be written into a folder: it replaces only an earlier report.

    Raises:
        OutputUnavailable: the folder holds a file of a report's name that isn't a report's.
    """
    theirs = [name for name in NAMES if os.path.lexists(folder / name)]
    if theirs and not _holds_report(folder):
        raise OutputUnavailable(
            f"{folder / theirs[0]} exists and isn't a lazybench report, so it "
            "isn't overwritten; choose another folder with --out"
        )


def _holds_report(folder: Path) -> bool:
    """Whether a folder holds an earlier report, by its first line."""
    try:
        with open_file(folder / REPORT) as file:
            return file.read(len(_TITLE)) == _TITLE.encode()
    except OSError:
        return False


def set_aside(outcome: AttackOutcome, folder: Path) -> Path | None:
    """Move an earlier report of other results into a folder of its own; return it, or None.

    Wall time and the numbers of images sent and of replayed answers are ignored, since they differ
    between runs.

    Raises:
        OutputUnavailable: the files can't be moved.
    """
    held = [name for name in NAMES if os.path.lexists(folder / name)]
    if not held or _results(_earlier(folder)) == _results(plain(facts(outcome))):
        return None
    aside = first_free(folder, "earlier")
    try:
        aside.mkdir()
        for name in held:
            (folder / name).rename(aside / name)
    except OSError as error:
        raise OutputUnavailable(
            f"the earlier report can't be moved to {aside} ({error.strerror}); choose another "
            "folder with --out"
        ) from error
    return aside


def _earlier(folder: Path) -> Any:
    try:
        return json.loads(read_file(folder / FACTS))
    except (OSError, ValueError, RecursionError):
        return None


def _results(results: Any) -> Any:
    if not isinstance(results, dict):
        return None
    kept = {name: value for name, value in results.items() if name not in _OF_ONE_RUN}
    attacks = results.get("attacks")
    if isinstance(attacks, list):
        kept["attacks"] = [
            {name: value for name, value in each.items() if name != "wall_s"}
            for each in attacks
            if isinstance(each, dict)
        ]
    return kept


def facts(outcome: AttackOutcome) -> dict[str, Any]:
    """Return the numbers of a report as a JSON object.

    Robust accuracy is the share of all images that are classified right and not attacked
    successfully; intervals are 95 % Wilson intervals. Queries, and bad queries, to success count
    the whole budget for a failure.
    """
    images, right = len(outcome.label), len(outcome.right)
    return {
        "lazybench": __version__,
        "target": outcome.target,
        "protocol": dict(outcome.protocol),
        "eight_bit": outcome.eight_bit,
        "images": images,
        "classes": list(outcome.classes),
        "clean_accuracy": _share(right, images),
        "attacks": [_attack_facts(outcome, each) for each in outcome.attacked],
        "worst_case": _share(int(outcome.robust().sum()), images),
        "changes": _changes(outcome),
        **_bounds(outcome),
        "probes": None if outcome.probes is None else dict(outcome.probes),
        "notes": list(outcome.notes),
        "asked": outcome.answered,
        "unanswered": outcome.unanswered,
        "replayed": outcome.replayed,
    }


def write(outcome: AttackOutcome, folder: Path) -> tuple[Path, ...]:
    """Return the files of a report, written into a folder.

    An earlier report of the same results is replaced; for one of other results see `set_aside`.

    Raises:
        StoreError: the disk is full.
        OutputUnavailable: the folder can't be written.
    """
    results = facts(outcome)
    files = [
        write_bytes(folder / REPORT, markdown(results).encode()),
        write_json(folder / FACTS, results),
        write_bytes(folder / TABLE, table(outcome).encode()),
        write_bytes(folder / ADVERSARIALS, _npz(adversarials(outcome))),
    ]
    picture = sheet(outcome)
    if picture is None:
        (folder / SHEET).unlink(missing_ok=True)
        return tuple(files)
    return (*files, write_bytes(folder / SHEET, _png(picture)))


def markdown(results: Mapping[str, Any]) -> str:
    """Return the page of a report."""
    protocol = results["protocol"]
    shown = "top class" if protocol["access"] == "label" else "scores"
    bad = protocol.get("bad_answers", "missed")
    bad = ", ".join(map(str, bad)) if isinstance(bad, list) else bad
    limit = protocol.get("bad_query_budget")
    lines = [
        f"{_TITLE}{markdown_text(results['target'])}",
        "",
        f"{results['images']} images, {protocol['norm']} distance at most {_eps(protocol['eps'])}, "
        f"{protocol['query_budget']:,} queries an image"
        f"{'' if limit is None else f' of which at most {limit:,} bad'}, "
        f"{'targeted' if protocol['targeted'] else 'untargeted'}, by {shown}"
        + (", images of 8 bits." if results["eight_bit"] else "."),
        "",
        "| | robust accuracy | 95 % interval | attacks won | mean queries | median queries "
        "| mean bad queries | median bad queries | median distance of wins |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        f"| no attack | {_row(results['clean_accuracy'])} | | | | | | |",
    ]
    for each in results["attacks"]:
        numbers = (
            _percent(each["success"]),
            f"{each['mean_queries']:,.1f}",
            f"{each['median_queries']:,.1f}",
            f"{each['mean_bad_queries']:,.1f}",
            f"{each['median_bad_queries']:,.1f}",
            "" if each["median_distance"] is None else f"{each['median_distance']:.4f}",
        )
        lines.append(f"| {markdown_text(each['attack'])} | {_row(each)} | {' | '.join(numbers)} |")
    lines.append(f"| **worst case** | {_row(results['worst_case'])} | | | | | | |")
    for each in results.get("white_box", ()):
        name, success = markdown_text(each["attack"]), _percent(each["success"])
        lines.append(f"| {name} | {_row(each)} | {success} | | | | | |")
    lines += [
        "",
        "Robust accuracy: share of all images that are classified right and stay so under the "
        "attack; in the worst case, under every attack. Attacks won: of the images classified "
        "right. Queries up to the first success; a failure counts as the whole budget. Bad "
        f"queries: those with {_BAD.get(bad, f'an answer among the classes {bad}')}; a failure "
        "counts as their whole budget, or that of queries without one.",
        "",
        "An attack that fails proves nothing: these numbers are upper bounds of robustness.",
    ]
    if names := results["classes"]:
        listed = ", ".join(_class(number, names) for number in range(len(names[:_SHOWN_CLASSES])))
        more = len(names) - _SHOWN_CLASSES
        rest = f", and {more:,} others: see `classes` in {FACTS}" if more > 0 else ""
        lines += ["", f"Classes, by the folders of the images: {listed}{rest}."]
    if changes := results["changes"]:
        lines += [
            "",
            "Most frequent changes of class, over the nearest adversarial image of each attacked "
            "image:",
            "",
            "| true class | taken for | images |",
            "|--:|--:|--:|",
            *(
                f"| {_class(c['label'], names)} | {_class(c['class'], names)} | {c['images']} |"
                for c in changes[:_SHOWN_CHANGES]
            ),
        ]
    if "white_box" in results:
        lines += [
            "",
            "White-box attacks use the network's gradients and have no query budget. They are "
            "there for comparison, and aren't part of the worst case.",
        ]
    if (probes := results["probes"]) is not None:
        lines += [
            "",
            f"{probes['images']} images were queried again alone, twice, with {probes['queries']} "
            f"queries that aren't charged to any attack: {probes['random']} were answered "
            f"differently the second time, {probes['batch']} others differently than in a batch.",
        ]
    if results["notes"]:
        lines += ["", "Notes:", "", *(f"- {markdown_text(note)}" for note in results["notes"])]
    if results["asked"] is not None:
        lines += [
            "",
            f"The target was queried on {results['asked']:,} images; {results['replayed']:,} "
            "answers came from the journal, or were repeats of the same image.",
        ]
    if results["unanswered"]:
        lines += [
            "",
            f"Another {results['unanswered']:,} images were sent without an answer (time-outs, "
            "failed or refused requests). No attack is charged for them; the service may charge "
            "you.",
        ]
    return "\n".join(lines) + "\n"


def _class(number: int, names: Sequence[str]) -> str:
    return f"{number} {markdown_text(names[number])}" if number < len(names) else str(number)


def table(outcome: AttackOutcome) -> str:
    """Return one CSV line for each image: labels, robustness and the numbers of each attack.

    Names are escaped so that spreadsheets don't read them as formulas.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["image", "label", "top", "right", "robust"]
    kinds = (
        *("success", "class", "queries", "success_query", "distance", "best_l2", "success_8bit"),
        *("bad_queries", "success_bad_queries"),
    )
    columns = [f"{each.name}_{kind}" for each in outcome.attacked for kind in kinds]
    writer.writerow([*head, *map(csv_cell, columns)])
    robust = outcome.robust()
    places = {int(place): number for number, place in enumerate(outcome.right)}
    for index, name in enumerate(outcome.names):
        number = places.get(index)
        row = [
            csv_cell(name),
            outcome.label[index],
            outcome.top[index],
            number is not None,
            robust[index],
        ]
        cells = [*row[:3], *map(int, row[3:])]
        for each in outcome.attacked:
            values = [None if number is None else each.columns[kind][number] for kind in kinds]
            if number is not None and not each.won[number]:
                values[kinds.index("class")] = None
            cells += [_cell(value) for value in values]
        writer.writerow(cells)
    return text.getvalue()


def adversarials(outcome: AttackOutcome) -> dict[str, NDArray[Any]]:
    """Return every adversarial image inside the ball, K of them over all attacks.

    `x` and `clean` `[K, C, H, W]` (uint8 where images have 8 bits, else float32); `[K]` each:
    `image` (place), `attack` (name), `label`, `class` (the target's), `distance`, and `query`, that
    of the first success.
    """
    places = [outcome.right[each.won] for each in outcome.attacked]
    at = np.concatenate(places)
    x = np.concatenate([each.nearest[each.won] for each in outcome.attacked])
    return {
        "x": _pixels(x, eight_bit=outcome.eight_bit),
        "clean": _pixels(outcome.clean[at], eight_bit=outcome.eight_bit),
        "image": at,
        "attack": np.concatenate(
            [
                np.full(len(part), each.name, dtype="U64")
                for each, part in zip(outcome.attacked, places, strict=True)
            ]
        ),
        "label": outcome.label[at],
        "class": _won(outcome, "class").astype(np.int64),
        "distance": _won(outcome, "distance"),
        "query": _won(outcome, "success_query").astype(np.int64),
    }


def sheet(outcome: AttackOutcome) -> NDArray[np.uint8] | None:
    """Return a picture of clean image, nearest adversarial and difference; None without success.

    The first 20 successfully attacked images are shown with the nearest adversarial over all
    attacks, each with the target's class below it; differences are stretched to full contrast,
    mid-grey is none. Pixels of small images are enlarged.
    """
    turned, best = _nearest(outcome)
    turned, best = turned[:_SHOWN], best[:_SHOWN]
    if not len(turned):
        return None
    clean = outcome.clean[outcome.right[turned]]
    near = np.stack([outcome.attacked[k].nearest[i] for k, i in zip(best, turned, strict=True)])
    difference = near - clean
    most = np.abs(difference).reshape(len(difference), -1).max(1)[:, None, None, None]
    stretched = difference / np.maximum(most, 1e-12) / 2 + 0.5
    tiles = np.stack([clean, near, stretched], 1).reshape(-1, *clean.shape[1:])
    if tiles.shape[1] not in (1, 3):
        tiles = tiles[:, :1]
    times = -(-_LEAST_TILE_PX // max(tiles.shape[2:]))
    tiles = tiles.repeat(times, 2).repeat(times, 3)
    names = []
    for k, i in zip(best, turned, strict=True):
        label, taken = outcome.label[outcome.right[i]], outcome.attacked[k].columns["class"][i]
        names += [str(int(label)), str(int(taken)), ""]
    return np.concatenate(
        [
            part
            for first in range(0, len(tiles), 6)
            for part in _captioned(grid(tiles[first : first + 6], 6), names[first : first + 6])
        ]
    )


def _captioned(row: NDArray[np.uint8], names: list[str]) -> tuple[NDArray[np.uint8], ...]:
    """A row of six tiles, and a line with a text under each of them."""
    from PIL import Image, ImageDraw

    line = Image.new("RGB", (row.shape[1], _CAPTION_PX))
    draw = ImageDraw.Draw(line)
    for place, name in enumerate(names):
        draw.text((place * (row.shape[1] - 1) // 6 + 2, 0), name, fill=(255, 255, 255))
    return row, np.asarray(line)


def _nearest(outcome: AttackOutcome) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the successfully attacked images, and the attack that got nearest to each."""
    far = np.array(
        [np.where(each.won, each.columns["distance"], np.inf) for each in outcome.attacked]
    )
    turned = np.flatnonzero(np.isfinite(far).any(0))
    return turned, far[:, turned].argmin(0)


def _changes(outcome: AttackOutcome) -> list[dict[str, int]]:
    """How often images of a class are taken for another, most frequent first."""
    turned, best = _nearest(outcome)
    counts = Counter(
        (int(outcome.label[outcome.right[i]]), int(outcome.attacked[k].columns["class"][i]))
        for k, i in zip(best, turned, strict=True)
    )
    return [
        {"label": label, "class": taken, "images": images}
        for (label, taken), images in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    ]


def _bounds(outcome: AttackOutcome) -> dict[str, Any]:
    """Robust accuracy under white-box attacks; nothing where none were wanted."""
    if not outcome.bounds:
        return {}
    images = len(outcome.label)
    return {
        "white_box": [
            {
                "attack": each.name,
                **_share(int((~each.won).sum()), images),
                "success": float(each.won.mean()),
            }
            for each in outcome.bounds
        ]
    }


def _attack_facts(outcome: AttackOutcome, each: Attacked) -> dict[str, Any]:
    budget = int(outcome.protocol["query_budget"])
    queries = np.where(each.won, each.columns["success_query"], budget)
    most_bad = outcome.protocol.get("bad_query_budget") or budget
    bad = np.where(each.won, each.columns["success_bad_queries"], most_bad)
    distance = each.columns["distance"][each.won]
    return {
        "attack": each.name,
        **_share(int(outcome.robust(each).sum()), len(outcome.label)),
        "success": float(each.won.mean()),
        "success_8bit": float(np.maximum(each.columns["success_8bit"], 0).mean()),
        "mean_queries": float(queries.mean()),
        "median_queries": float(np.median(queries)),
        "mean_bad_queries": float(bad.mean()),
        "median_bad_queries": float(np.median(bad)),
        "median_distance": float(np.median(distance)) if len(distance) else None,
        "queries": int(each.columns["queries"].sum()),
        "bad_queries": int(each.columns["bad_queries"].sum()),
        "wall_s": each.wall_s,
    }


def _share(hits: int, n: int) -> dict[str, Any]:
    return {"accuracy": hits / n, "interval": list(wilson(hits, n))}


def _won(outcome: AttackOutcome, column: str) -> NDArray[np.float64]:
    return np.concatenate([each.columns[column][each.won] for each in outcome.attacked])


def _row(share: Mapping[str, Any]) -> str:
    low, high = share["interval"]
    return f"{_percent(share['accuracy'])} | {_percent(low)} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _eps(eps: float | str) -> str:
    """An eps in 255ths where it is a whole number of them."""
    if isinstance(eps, str):
        return eps
    steps = eps * 255
    whole = eps < 0.5 and math.isclose(steps, round(steps), abs_tol=1e-6)
    return f"{round(steps)}/255" if whole else f"{eps:g}"


def _cell(value: Any) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return f"{float(value):.8g}"


def _pixels(x: NDArray[np.float32], *, eight_bit: bool) -> NDArray[Any]:
    return (x * 255).round().astype(np.uint8) if eight_bit else x


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    held = io.BytesIO()
    by_name: dict[str, Any] = dict(arrays)
    np.savez_compressed(held, **by_name)
    return held.getvalue()


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(picture).save(held, "PNG")
    return held.getvalue()
