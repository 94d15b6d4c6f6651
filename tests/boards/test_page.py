from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from lazybench.boards import build, to_html
from lazybench.boards.charts import score_axis
from lazybench.boards.page import json_for_script, rank_texts
from lazybench.boards.plot_data import front, plot_data
from lazybench.records import Reported, Store, Trials

HOSTILE = ["<script>alert(1)</script>", "</script><img src=x onerror=alert(1)>", '"><b id=x>']
HOSTILE += ["<!--", "{{ 7*7 }}", "'\" onmouseover=alert(1) x='", "🙂", "x" * 300, "&lt;b&gt;"]


class Reader(HTMLParser):
    """Tags, scripts and the text of each table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data
        elif self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def curve(*values: float) -> list[dict[str, Any]]:
    return [{"step": 10 * (i + 1), "val": v, "loss": 1.0} for i, v in enumerate(values)]


def attacked(make_run: Any, agent: str, first: list[int], **more: Any) -> Any:
    scores = [float(position > 0) for position in first]
    trials = Trials.of(scores, columns={"success_query": first})
    env = {"env__family": "attack", "env__metric": "success", "env__id": "glyphs-net4-untargeted"}
    return make_run(agent, trials=trials, **env, **{"env__protocol": {"query_budget": 100}} | more)


def test_the_page_is_whole_and_asks_for_nothing(make_run: Any) -> None:
    runs = [make_run("a", 0.1, curve=curve(0.2, 0.4)), make_run("b")]
    text = to_html(build(runs), runs, command="lazybench x")
    assert "Made by `lazybench x` from 2 records" in text
    # Links are fetched by a click alone. The one other address is the name of SVG's vocabulary.
    links = re.compile(r'<a href="https://[^"]+" rel="noreferrer">')
    assert set(re.findall(r"https?://[^\"' ]+", links.sub("", text))) == {
        "http://www.w3.org/2000/svg"
    }
    assert "default-src 'none'" in text
    read = Reader(text)
    assert not {"link", "img", "iframe", "object"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name in ("src", "onclick", "onload")]
    assert text == to_html(build(reversed(runs)), list(reversed(runs)), command="lazybench x")


def test_the_tables_are_there_without_scripts(make_run: Any) -> None:
    runs = [make_run("a", 0.1), make_run("b"), make_run("c", status="failed", reason="no luck")]
    read = Reader(to_html(build(runs), runs))
    rows = {row[1]: row for row in read.rows if len(row) > 2}
    assert rows["a"][0] == "1"
    assert " to " in rows["a"][2]
    assert any("no luck" in cell for cell in rows["c"])


def page_of(make_run: Any, name: str) -> str:
    """A page on which everything that a record or paper may name is called so."""
    paper = Reported(
        source=name, table=name, row=name, agent=name, env=name, metric=name, value=1, unit=name
    )
    more: dict[str, Any] = {
        "env__id": name,
        "data__name": name,
        "env__family": name,
        "env__protocol": {name: name},
    }
    more |= {"network": {"name": name, "parameters": 1}}
    runs = [make_run(name, **more)]
    runs.append(make_run(name, seed=1, status="failed", reason=name, **more))
    return to_html(build(runs, [paper]), runs, command=name)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(make_run: Any, name: str) -> None:
    read, usual = Reader(page_of(make_run, name)), Reader(page_of(make_run, "plain"))
    assert read.tags == usual.tags
    assert [key for key, _ in read.attributes] == [key for key, _ in usual.attributes]
    assert json.loads(read.scripts[0])[0]["series"][0]["name"] == name
    assert any(name in cell for row in read.rows for cell in row)
    assert read.scripts[1] == usual.scripts[1]


def test_json_in_a_script_holds_no_markup() -> None:
    value = {"</script>": ["<!--", "a&b", "\u2028", ">"]}
    text = json_for_script(value)
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == value


def test_an_empty_store_has_a_page() -> None:
    assert "No records yet." in to_html([], [])


def test_learning_curves_count_images_where_all_tell_them(make_run: Any) -> None:
    cost = {"outer_steps": 20, "image_gradients": 2000}
    runs = [make_run("a", curve=curve(0.2, 0.4), cost=cost, seed=seed) for seed in range(2)]
    (shown,) = plot_data(build(runs), runs)
    assert shown.learning_x == "image-gradients"
    assert shown.learning_y == "validation accuracy (%)"
    assert shown.series[0].learning == (((1000.0, 20.0), (2000.0, 40.0)),) * 2
    runs.append(make_run("b", curve=[*curve(0.3), {"step": 20, "val": None}]))
    (shown,) = plot_data(build(runs), runs)
    assert shown.learning_x == "meta-iterations"
    assert [each.learning[0][-1] for each in shown.series if each.name == "b"] == [(10.0, 30.0)]


def test_success_curves_are_the_share_won_by_then(make_run: Any) -> None:
    runs = [attacked(make_run, "a", [1, 10, 0, 100]), attacked(make_run, "b", [0, 0, 0, 50])]
    (shown,) = plot_data(build(runs), runs)
    won = dict(shown.series[0].success)
    assert (won[1.0], won[10.0], won[100.0]) == (25.0, 50.0, 75.0)
    assert dict(shown.series[1].success)[100.0] == 25.0
    shares = [share for _, share in shown.series[0].success]
    assert shares == sorted(shares)
    assert plot_data(build([make_run("c")]), [make_run("c")])[0].series[0].success == ()


def test_the_front_is_what_no_other_row_beats(make_run: Any) -> None:
    costs = {"a": (0.2, 100), "b": (0.1, 10), "c": (0.0, 50), "d": (-0.1, 5), "e": (0.15, 200)}
    runs = [make_run(n, shift, cost={"train_cpu_s": s}) for n, (shift, s) in costs.items()]
    (shown,) = plot_data(build(runs), runs)
    assert shown.costs[0] == ("train_cpu_s", "training, CPU seconds")
    kept = [shown.series[i].name for i in front(shown.series, "train_cpu_s", "higher")]
    assert kept == ["d", "b", "a"]
    kept = [shown.series[i].name for i in front(shown.series, "train_cpu_s", "lower")]
    assert kept == ["d"]


def test_agents_that_dont_train_are_at_0_and_unknown_costs_are_named(make_run: Any) -> None:
    floor: dict[str, Any] = {"train_wall_s": 0.0, "outer_steps": 0, "peak_memory_bytes": 10**6}
    cost = {"train_cpu_s": 5.0, "image_gradients": 10, "outer_steps": 2}
    runs = [
        make_run("floor", cost=floor),
        make_run("told", 0.1, cost=cost),
        make_run("untold", 0.2, cost={"train_wall_s": 3.0}),
    ]
    (shown,) = plot_data(build(runs), runs)
    costs = {each.name: each.costs for each in shown.series}
    assert (costs["floor"]["train_cpu_s"], costs["floor"]["image_gradients"]) == (0.0, 0.0)
    assert costs["floor"]["peak_memory_mb"] == 1.0
    assert "train_cpu_s" not in costs["untold"]
    assert shown.cost_note("train_cpu_s") == "Left out, since their records don't have it: untold."
    assert "told" in shown.cost_note("train_wall_s")
    text = to_html(build(runs), runs)
    assert "records don't have it: untold" in json.loads(Reader(text).scripts[0])[0]["costs"][0][2]


def test_curves_on_images_that_training_saw_are_named(make_run: Any) -> None:
    runs = [make_run(n, track=t, curve=curve(0.2)) for n, t in (("a", "LT"), ("b", "LT+dev"))]
    (shown,) = plot_data(build(runs), runs)
    assert shown.learning_note.startswith("Track LT+dev: training may have used the images")
    assert shown.learning_note.endswith(": b.")
    assert plot_data(build(runs[:1]), runs[:1])[0].learning_note == ""
    facts = json.loads(Reader(to_html(build(runs), runs)).scripts[0])[0]
    assert facts["learningNote"] == shown.learning_note


def test_the_table_of_a_paper_is_whole(make_run: Any) -> None:
    runs = [
        make_run(name, shift, seed) for name, shift in (("a", 0.1), ("b", 0)) for seed in range(3)
    ]
    facts: dict[str, Any] = {"agent": None, "metric": "accuracy", "value": 1, "unit": "%"}
    facts |= {"env": "glyphs-5way-1shot", "row": "Ours"}
    papers = [Reported(**facts, source="Long " * 20, table=f"Table {i}") for i in (5, 6)]
    text = to_html(build(runs, papers), runs)
    assert '<td class="prose">Table 5</td>' in text
    assert text.count("Long " * 20) == 1
    papers.append(Reported(**facts, source="Other", table="Table 7"))
    text = to_html(build(runs, papers), runs)
    assert '<td class="prose">Other, Table 7</td>' in text
    assert "Source:" not in text


def rows_by_agent(text: str) -> dict[str, list[str]]:
    return {row[1]: row for row in Reader(text).rows if len(row) > 6}


def test_six_columns_come_first_and_the_picker_has_the_rest(make_run: Any) -> None:
    cost = {"train_cpu_s": 5.0, "outer_steps": 3, "train_wall_s": 4.0}
    runs = [make_run("a", 0.1, s, cost=cost) for s in range(3)]
    runs += [make_run("b", seed=s, cost=cost) for s in range(3)]
    text = to_html(build(runs), runs)
    shown = re.findall(r'<th scope="col" data-key="(\w+)" data-shown', text)
    assert shown == ["rank", "agent", "score", "diff", "seeds", "train_cpu_s"]
    boxes = re.findall(r'name="column" value="([\w.]+)"( checked)?', text)
    assert [key for key, checked in boxes if checked] == shown
    assert {"seed_std", "train_wall_s", "outer_steps"} <= {key for key, _ in boxes}
    attacks = [attacked(make_run, n, [1, 5], cost=cost) for n in ("a", "b")]
    assert 'train_cpu_s" data-shown' not in to_html(build(attacks), attacks)


def test_a_rank_has_one_notation_that_holds_its_place(make_run: Any) -> None:
    runs = [make_run("sure", 0.2, seed) for seed in range(3)]
    runs += [make_run(name, 0.1, seed) for name in ("x", "y") for seed in range(3)]
    runs += [make_run("few", 0.15), make_run("last", -0.2, n=40)]
    (board,) = build(runs)
    found = rank_texts(board)
    texts = {row.agent: found[id(row)][0] for row in board.ranked}
    assert texts["sure"] == "1"
    assert texts["few"] == "2"
    assert {texts["x"], texts["y"]} == {"3\N{EN DASH}4"}
    assert texts["last"] == "5"
    for place, row in enumerate(board.ranked, start=1):
        ends = [int(end) for end in found[id(row)][0].split("\N{EN DASH}")]
        assert ends[0] <= place <= ends[-1]
    rows = rows_by_agent(to_html([board], runs))
    assert rows["x"][0] == texts["x"]


def test_rows_of_equal_score_and_few_seeds_share_their_places(make_run: Any) -> None:
    scores = [0.5] * 40
    runs = [make_run(name, scores=np.array(scores)) for name in ("a", "b")]
    (board,) = build(runs)
    assert {text for text, _ in rank_texts(board).values()} == {"1\N{EN DASH}2"}


def test_the_axis_shows_the_contenders_and_marks_the_others(make_run: Any) -> None:
    runs = [make_run(name, shift) for name, shift in (("a", 0.3), ("b", 0.28), ("c", 0.27))]
    runs.append(make_run("chance", -0.3))
    (board,) = build(runs)
    axis = score_axis(board, "")
    assert axis is not None
    scores = {row.agent: row.score for row in board.ranked}
    assert all(0 < axis.at(scores[name]) < 1 for name in "abc")
    assert axis.at(scores["a"]) - axis.at(scores["c"]) > 0.1
    assert axis.at(scores["chance"]) < 0
    assert len([1 for at, _ in axis.ticks if 0 <= at <= 1]) >= 3
    text = to_html([board], runs)
    assert text.count('<b class="low">') == 1
    assert "Bars span" not in text


def test_superseded_rows_are_folded_and_in_no_chart(make_run: Any) -> None:
    curves = {"curve": curve(0.2, 0.4)}
    runs = [make_run("a", agent__version=version, **curves) for version in (1, 2)]
    boards = build(runs)
    text = to_html(boards, runs)
    assert "<tbody data-folded>" in text
    assert "Superseded: made by older versions of their agents (1)" in text
    (shown,) = plot_data(boards, runs)
    assert [each.name for each in shown.series] == ["a"]


def test_the_overview_names_winners_dates_and_the_papers_environments_first(make_run: Any) -> None:
    runs = [
        make_run("best", 0.2, started="2026-02-03T00:00:00Z", env__id="zebra-5way-1shot"),
        make_run("other", started="2026-02-01T00:00:00Z", env__id="zebra-5way-1shot"),
        make_run("alone", env__id="aardvark-5way-1shot"),
    ]
    facts: dict[str, Any] = {"agent": None, "metric": "accuracy", "value": 1, "unit": "%"}
    papers = [Reported(**facts, env="zebra-5way-1shot", row="x", source="s", table="t")]
    text = to_html(build(runs, papers), runs)
    overview = text.partition('<nav class="overview"')[2].partition("</nav>")[0]
    rows = [row for row in Reader(overview).rows if len(row) == 6]
    assert [row[0] for row in rows[1:]] == ["zebra-5way-1shot-v1 paper", "aardvark-5way-1shot-v1"]
    assert (rows[1][2], rows[1][5].strip()) == ("best", "2026-02-03")
    places = [text.index(f'id="{env}-5way-1shot-v1-small"') for env in ("zebra", "aardvark")]
    assert places == sorted(places)


def test_every_link_inside_the_page_lands(make_run: Any) -> None:
    runs = [make_run("maml", 0.1), make_run("protonet"), make_run("stranger", -0.1)]
    facts: dict[str, Any] = {"agent": None, "metric": "accuracy", "value": 1, "unit": "%"}
    papers = [Reported(**facts, env="glyphs-5way-1shot", row="x", source="s", table="t")]
    read = Reader(to_html(build(runs, papers), runs))
    ids = [value for name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = [value or "" for name, value in read.attributes if name == "href"]
    inside = {link[1:] for link in links if link.startswith("#")}
    assert inside <= set(ids)
    assert {"agent-maml", "data-glyphs", "reported-0", "glyphs-5way-1shot-v1-small"} <= inside
    assert "agent-stranger" not in inside


def test_records_are_linked_where_the_store_is(make_run: Any, tmp_path: Path) -> None:
    runs = [make_run("a", seed=seed) for seed in range(2)]
    store = Store(tmp_path / "the store")
    paths = [store.publish(run).relative_to(tmp_path).as_posix() for run in runs]
    text = to_html(build(runs), runs, store="the store")
    assert all(f'<a href="{quote(path)}"' in text for path in paths)
    assert "records/" not in to_html(build(runs), runs, store=None)


def test_boards_that_share_env_and_budget_have_names_of_their_own(make_run: Any) -> None:
    runs = [
        make_run("a"),
        make_run("a", data__fingerprint="cd" * 32),
        make_run("a", budget="paper"),
    ]
    names = [shown.id for shown in plot_data(build(runs), runs)]
    assert len(set(names)) == 3
    assert "glyphs-5way-1shot-v1-paper" in names
    assert all(re.fullmatch(r"[a-z0-9._-]+", name) for name in names)


def test_rows_of_one_name_are_distinguished_in_pictures(make_run: Any) -> None:
    runs = [make_run("a", config={"batch_norm": kind}) for kind in ("inductive", "transductive")]
    (shown,) = plot_data(build(runs), runs)
    assert {each.name for each in shown.series} == {"a, inductive", "a, transductive"}
