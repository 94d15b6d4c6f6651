"""Short boards inside a Markdown file: what is replaced, what stays, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lazybench.boards import build
from lazybench.boards.build import one_table
from lazybench.boards.readme_blocks import END, filled
from lazybench.errors import UnknownName, UsageError
from lazybench.records import Reported

BEGIN = "<!-- lazybench board: glyphs-5way-1shot small 2 -->"


@pytest.fixture
def boards(make_run: Any) -> list[Any]:
    return build([make_run("worst"), make_run("best", 0.2), make_run("a|b", 0.1)])


def test_the_best_rows_are_between_the_marks_and_the_rest_stays(boards: list[Any]) -> None:
    text = filled(f"before\n{BEGIN}\nold\n{END}\nafter\n", boards)
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert text.index("| best") < text.index("a\\|b")
    assert "worst" not in text
    assert "2 rows and 1 more, 3 records" in text
    assert filled(text, boards) == text


def test_further_columns_hold_measures_and_what_papers_report(make_run: Any) -> None:
    reported = {"env": "glyphs-5way-1shot", "source": "S", "table": "T", "row": "R", "unit": "%"}
    papers = [
        Reported(**reported, agent="a", metric="accuracy", value=61.0, batch_norm="inductive"),
        Reported(**reported, agent="a", metric="accuracy", value=63.0, ci95_half=0.5),
        Reported(**reported, agent="a", metric="accuracy", value=67.0, settings={"hull": 3}),
        Reported(**reported, agent="a", metric="top1_error_pct", value=40.0),
        Reported(**reported, agent=None, metric="accuracy", value=99.0),
    ]
    error = {"value": 41.5, "ci95": None, "n": 40, "unit": "%", "better": "lower"}
    runs = [
        make_run(
            "a", 0.2, config={"batch_norm": "transductive"}, metrics={"top1_error_pct": error}
        ),
        make_run("a", 0.1, config={"batch_norm": "transductive", "hull": 3}, overrides={"hull": 3}),
        make_run("b", 0.0, track="LT", cost__gradient_equivalents=1234.0),
    ]
    asked = "track F top1_error_pct paper paper:top1_error_pct"
    mark = f"<!-- lazybench board: glyphs-5way-1shot small 9 {asked} -->"
    text = filled(f"{mark}\n{END}", build(runs, papers))
    head, _, *rows = [line.split("|")[-6:-1] for line in text.splitlines() if "|" in line]
    assert [cell.strip() for cell in head] == [
        *("track", "F", "top1 error, %", "reported, %", "reported top1 error, %")
    ]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["", "", "41.50", "63.00 ± 0.50", "40.00"],
        ["", "", "", "67.00", ""],
        ["LT", "1,234", "", "", ""],
    ]


def test_text_without_marks_is_left_alone(boards: list[Any]) -> None:
    assert filled("# Mine\n", boards) == "# Mine\n"
    assert filled(f"{END}\n", boards) == f"{END}\n"


@pytest.mark.parametrize(
    ("text", "error", "reported"),
    [
        (BEGIN, UsageError, "isn't closed"),
        (f"{BEGIN}\n{BEGIN}\n{END}", UsageError, "isn't closed"),
        (f"<!-- lazybench board: glyphs-5way-1shot -->\n{END}", UsageError, "form"),
        (f"<!-- lazybench board: glyphs-5way-1shot small 0 -->\n{END}", UsageError, "form"),
        (f"<!-- lazybench board: glyphs-5way-1shot small 2 trak -->\n{END}", UsageError, "track"),
        (f"<!-- lazybench board: glyphs-5way-1shot small 2 paper -->\n{END}", UsageError, "paper"),
        (f"<!-- lazybench board: glyph-5way-1shot small 2 -->\n{END}", UnknownName, "glyphs-5way"),
        (f"<!-- lazybench board: glyphs-5way-1shot paper 2 -->\n{END}", UnknownName, "paper"),
    ],
)
def test_what_cant_be_filled_is_refused(
    boards: list[Any], text: str, error: type[Exception], reported: str
) -> None:
    with pytest.raises(error, match=reported):
        filled(text, boards)


def test_an_environment_of_two_boards_is_refused(make_run: Any) -> None:
    two = build([make_run("a"), make_run("b", data__fingerprint="f" * 64)])
    with pytest.raises(UsageError, match="2 boards"):
        filled(f"{BEGIN}\n{END}", two)


def test_a_defended_board_is_chosen_by_its_setting(make_run: Any) -> None:
    """Without one, the board without any defence is meant, here and in tables of records."""
    env = {"env__id": "glyphs-net4-untargeted", "env__family": "attack"}
    runs = [
        make_run(name, **env, env__protocol={"trials": 40, **protocol})
        for name, protocol in (("free", {}), ("noisy", {"defence": "noise:0.02"}))
    ]
    for words, shown in (("", "free"), (" defence=none", "free"), (" defence=noise:0.02", "noisy")):
        mark = f"<!-- lazybench board: glyphs-net4-untargeted small 9{words} -->"
        text = filled(f"{mark}\n{END}", build(runs))
        assert f"| {shown} " in text
        assert ("small, defence noise:0.02: 1 rows" in text) is (shown == "noisy")
        chosen = dict(word.split("=") for word in words.split())
        assert [record.agent.id for record in one_table(runs, chosen)] == [shown]
    assert [board.at for board in build(runs)] == ["small", "small, defence noise:0.02"]
    mark = "<!-- lazybench board: glyphs-net4-untargeted small 9 defence=round:2 -->"
    with pytest.raises(UnknownName, match="no board of glyphs-net4-untargeted defence=round:2"):
        filled(f"{mark}\n{END}", build(runs))


def test_a_note_is_filled(boards: list[Any]) -> None:
    notes = {"verdicts": "None has a verdict."}
    mark, end = "<!-- lazybench note: verdicts -->", "<!-- lazybench note: end -->"
    text = filled(f"# Mine\n\n{mark}\nold\n{end}\n\n{BEGIN}\n{END}\n", boards, notes)
    assert "None has a verdict." in text
    assert "old" not in text
    assert "| best" in text
    assert filled(text, boards, notes) == text
    with pytest.raises(UnknownName, match=r"names no note.+Did you mean: verdicts"):
        filled(f"<!-- lazybench note: verdict -->\n{end}", boards, notes)
    with pytest.raises(UsageError, match=f"isn't closed; put {end}"):
        filled(f"{mark}\n{END}", boards)


NETWORK = {"name": "conv4", "parameters": 9, "batch_norm": False}


def test_rows_of_several_networks_say_among_which_they_are_ranked(make_run: Any) -> None:
    other = {**NETWORK, "name": "mlp"}
    runs = [make_run("a", 0.2, network=NETWORK), make_run("b", 0.1, network=NETWORK)]
    mark = "<!-- lazybench board: glyphs-5way-1shot small 9 -->"
    assert "ranked among" not in filled(f"{mark}\n{END}", build(runs))
    text = filled(f"{mark}\n{END}", build([*runs, make_run("c", network=other)]))
    lines = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines if "---" not in line[0]]
    assert cells == [
        ["ranked among", "rank", "agent"],
        ["conv4", "1", "a"],
        ["conv4", "2", "b"],
        ["mlp", "1", "c"],
    ]


FEATURES = "<!-- lazybench features: net small glyphs-5way-1shot -->"
FEATURES_END = "<!-- lazybench features: end -->"


def test_a_line_has_pixels_and_features(make_run: Any) -> None:
    of_net = {"env__id": "glyphs@net-5way-1shot", "data__name": "glyphs@net"}
    of_other = {"env__id": "glyphs@net-64px-5way-1shot", "data__name": "glyphs@net-64px"}
    found = build(
        [
            make_run("worst"),
            make_run("best", 0.1),
            make_run("alone", 0.2, **of_net),
            make_run("last", **of_net, network=NETWORK),
            make_run("together", 0.25, diagnostics={"transductive": True}, **of_net),
            make_run("larger", 0.3, **of_other),
        ]
    )
    text = filled(f"before\n{FEATURES}\nold\n{FEATURES_END}\nafter\n", found)
    (line,) = [each for each in text.splitlines() if each.startswith("| glyphs-5way-1shot")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[0] == "glyphs-5way-1shot"
    assert [cell.partition(":")[0] for cell in cells[1:]] == ["best", "alone", "together"]
    best = next(row for row in found[0].ranked if row.agent == "best")
    assert best.score is not None
    assert f"best: {best.score:.1f} (" in cells[1]
    assert "old" not in text
    assert text.endswith(f"{FEATURES_END}\nafter\n")
    assert filled(text, found) == text
    with pytest.raises(UnknownName, match="features of other for glyphs-5way-1shot"):
        filled(f"{FEATURES.replace('net', 'other')}\n{FEATURES_END}", found)
    with pytest.raises(UsageError, match=r"BACKBONE BUDGET\[,LONGER\] ENV"):
        filled(f"<!-- lazybench features: net small -->\n{FEATURES_END}", found)


def test_pixels_are_shown_at_the_longest_budget_that_has_a_board(make_run: Any) -> None:
    of_net = {"env__id": "glyphs@net-5way-1shot", "data__name": "glyphs@net"}
    records = [make_run("short", 0.1), make_run("alone", 0.2, **of_net)]
    mark = FEATURES.replace("small", "small,medium")
    brief = filled(f"{mark}\n{FEATURES_END}", build(records))
    assert "| short: " in brief
    assert "at medium" not in brief
    records.append(make_run("long", 0.05, budget="medium"))
    text = filled(f"{mark}\n{FEATURES_END}", build(records))
    (line,) = [each for each in text.splitlines() if each.startswith("| glyphs-5way-1shot")]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    assert cells[0].startswith("long: ")
    assert cells[0].endswith(" at medium")
    assert cells[1].startswith("alone: ")
    assert "at small, or as shown" in text
    assert "short: " in filled(f"{FEATURES}\n{FEATURES_END}", build(records))
    with pytest.raises(UsageError, match=r"a budget in .* must be one of smoke, .*, got 'mediun'"):
        filled(f"{mark.replace('medium', 'mediun')}\n{FEATURES_END}", build(records))


def test_a_column_of_the_cost_to_a_target(make_run: Any) -> None:
    def curve(*values: float) -> list[dict[str, float]]:
        steps = enumerate(values, 1)
        return [{"step": i, "val": v, "train_cpu_s": 1_000.0 * i} for i, v in steps]

    env = {"env__id": "omniglot-5way-1shot"}
    found = build(
        [
            make_run("soon", 0.2, curve=curve(0.9, 0.96), **env),
            make_run("some", 0.1, seed=0, curve=curve(0.96, 0.96), **env),
            make_run("some", 0.1, seed=1, curve=curve(0.96, 0.96), **env),
            make_run("some", 0.1, seed=2, curve=curve(0.9, 0.9), **env),
            make_run("never", curve=curve(0.9, 0.9499), **env),
        ]
    )
    text = filled(f"<!-- lazybench board: omniglot-5way-1shot small 5 to_95 -->\n{END}", found)
    lines = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    assert lines[0][-2].strip() == "CPU s to 95 %"
    cells = {line[2].split()[0].rstrip(","): line[-2].strip() for line in lines[2:]}
    assert cells["soon"].startswith("2,000, ")
    assert cells["some"].startswith("1,000, 2 of 3 seeds, ")
    assert cells["never"] == "--"
    with pytest.raises(UsageError, match=r"no column 'to_96'.*to_95, to_98"):
        filled(f"<!-- lazybench board: omniglot-5way-1shot small 5 to_96 -->\n{END}", found)
