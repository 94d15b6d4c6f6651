from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lazybench.boards import build
from lazybench.boards.render import to_latex
from lazybench.records import Reported
from lazybench.tables import latex_cell, latex_text

HOSTILE = ["\\input{/etc/passwd}", "a & b \\\\ c", "50 % off", "$x^2$", "#1_{y}", "~", "[a]", "*"]
HOSTILE += ["🙂", "ő <b>|`\"'", "x" * 300, "a\nb", "\x1b[31m", "}\\end{tabular}"]


def paper(source: str = "Paper") -> Reported:
    facts: dict[str, Any] = {"agent": None, "unit": "%", "env": "glyphs-5way-1shot"}
    facts |= {"table": "Table 5", "row": "Ours", "metric": "accuracy"}
    return Reported(**facts, source=source, value=48.7, ci95_half=1.84)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a_b & 5 % of $3 #1 {x}", r"a\_b \& 5 \% of \$3 \#1 \{x\}"),
        ("\\end{x}^~", r"\textbackslash{}end\{x\}\textasciicircum{}\textasciitilde{}"),
        ("<a|b>", r"\textless{}a\textbar{}b\textgreater{}"),
        ("[a] *", "{[}a{]} {*}"),
        ("🙂 é", "{[}U+1F642{]} é"),
        ("a\nb\x07", "a b"),
    ],
)
def test_text_is_set_as_it_is(text: str, shown: str) -> None:
    assert latex_text(text) == shown


def test_only_numbers_get_a_minus() -> None:
    assert latex_cell("-0.5 (-1.0 to 2)") == "$-$0.5 ($-$1.0 to 2)"
    assert latex_cell("conv4-64 r-2") == "conv4-64 r-2"


def test_columns_that_agree_are_in_the_note(make_run: Any) -> None:
    text = to_latex(build([make_run("a", 0.1), make_run("b")], [paper()]), command="lazybench x")
    assert text.startswith("% Made by `lazybench x` from 2 records")
    header, first, second = re.findall(r"^[^%\\].*? & .*\\\\$", text, re.MULTILINE)[:3]
    assert "trials" not in header
    assert "trials 40" in text
    assert [row.split(" & ")[1] for row in (first, second)] == ["a", "b"]
    assert "$-$" in second
    assert "48.70 $\\pm$ 1.84" in text
    assert text.index("Reported for") > text.index("glyphs-5way-1shot-v1, budget small")
    assert "Source: Paper." in text


def test_a_column_with_gaps_stays(make_run: Any) -> None:
    text = to_latex(build([make_run("a", cost={"outer_steps": 12}), make_run("b", cost={})]))
    assert r"\shortstack[l]{outer\\steps}" in text.split(r"\midrule")[0]


def test_what_a_paper_needs_is_shown_and_the_rest_is_named(make_run: Any) -> None:
    def run(agent: str, queries: float) -> Any:
        success = {"value": 0.5, "n": 40, "unit": "fraction", "better": "higher"}
        asked = {"n": 40, "unit": "queries", "better": "lower"}
        metrics = {"accuracy": success, "mean_queries": asked | {"value": queries}}
        metrics["median_queries"] = asked | {"value": queries / 2}
        return make_run(agent, metrics=metrics, cost={"train_cpu_s": queries, "queries": 12})

    text = to_latex(build([run("a", 10), run("b", 20)]))
    header = text.split(r"\midrule")[0]
    assert r"\shortstack[l]{mean\\queries}" in header
    assert "median" not in header
    assert "CPU" not in header
    assert "In the CSV: median queries (queries), train CPU s." in text
    assert "queries 12" in text


def test_every_row_has_as_many_cells_as_the_header(make_run: Any) -> None:
    runs = [make_run(name, config={"x": name}, overrides={"x": name}) for name in HOSTILE]
    runs.append(make_run("lost", status="failed", reason="& \\\\ %"))
    text = to_latex(build(runs))
    (head,) = re.findall(r"^rank .*\\\\$", text, re.MULTILINE)
    rows = [
        line
        for line in text.splitlines()
        if line.endswith(r" \\") and not line.startswith(r"\multicolumn")
    ]
    assert len(rows) == len(runs) + 1
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {
        len(re.findall(r"(?<!\\)&", head))
    }


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_it_compiles_whatever_the_names(make_run: Any, tmp_path: Path) -> None:
    runs = [make_run(name, config={"x": name}, overrides={"x": name}) for name in HOSTILE]
    runs.append(make_run("lost", status="failed", reason="& \\\\ %"))
    body = to_latex(build(runs, [paper(), paper("\\other{source}_")]), command="x\n\\undefined %")
    head = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(head + body + "\\end{document}\n", "utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode("utf-8", "replace")[-2000:]
