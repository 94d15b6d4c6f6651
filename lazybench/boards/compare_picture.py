"""A comparison as a picture: both sides trial by trial."""

from __future__ import annotations

from collections import Counter

from lazybench.boards.compare import Comparison
from lazybench.boards.plots import as_bytes, new_figure

_DOT = 12.0
_LARGEST = 900.0
_FEW_PLACES = 16
"""At most so many places have their trials counted beside them, those of three seeds of hits."""


def compare_picture(found: Comparison, form: str) -> bytes:
    """Return a scatter of the trials' scores as `png` or `svg`.

    The area of a dot grows with the trials at its place; where those are at few places, such as
    hits and misses, their counts are written beside them.

    Raises:
        LazybenchError: matplotlib isn't installed.
    """
    figure, axes = new_figure(5, 5)
    x, y = ([round(v, 6) for v in side.by_trial.tolist()] for side in (found.right, found.left))
    levels = sorted({*x, *y})
    counts = Counter(zip(x, y, strict=True))
    ends = (levels[0], levels[-1])
    axes.plot(ends, ends, color="0.6", linewidth=1)
    scale = min(_DOT, _LARGEST / max(counts.values()))
    axes.scatter(
        [place[0] for place in counts],
        [place[1] for place in counts],
        s=[scale * count for count in counts.values()],
        alpha=0.5,
        edgecolors="none",
    )
    if len(counts) <= _FEW_PLACES and len(counts) < len(x):
        # Of hits, a corner without a trial says something, too.
        corners = [(a, b) for a in levels for b in levels] if len(levels) == 2 else []
        for place in {**dict.fromkeys(corners), **counts}:
            axes.annotate(
                str(counts[place]), place, (0, 18), textcoords="offset points", ha="center"
            )
        axes.margins(0.2)
        axes.set_xticks(levels, [f"{level:.3g}" for level in levels])
        axes.set_yticks(levels, [f"{level:.3g}" for level in levels])
    for side, label in ((found.right, axes.set_xlabel), (found.left, axes.set_ylabel)):
        label(f"{side.name}, {found.metric} ({found.unit}) of a trial")
    mean, lo, hi, _ = found.difference
    axes.set_title(f"{found.env}: {mean:+.2f} ({lo:+.2f} to {hi:+.2f})")
    return as_bytes(figure, form)
