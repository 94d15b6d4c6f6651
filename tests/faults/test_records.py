"""Rows 27 to 31 and 33: the same command again, other settings, other versions, hostile names."""

from __future__ import annotations

import csv
import datetime
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faultkit
import pytest

from lazybench.records import Record, Store, canonical_json
from lazybench.records.schema import KEY_FIELDS, make_key

ROOT = Path(__file__).parents[2]
SMOKE = ("--out", "store", "--runs", "runs", "--threads", "1", "-b", "smoke")


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for part in ("store", "runs")
        for path in (folder / part).rglob("*")
        if path.is_file() and "lock" not in path.name
    }


def test_27_the_same_command_twice(here: Any) -> None:
    assert here.play("Steady").wait().code == 0
    before = files(here.folder)
    cpu_s = partial(faultkit.at_most_cpu, 2)
    done = here.play("Steady", prepare=cpu_s).wait()
    assert done.code == 0
    assert "recorded already" in done.err
    assert files(here.folder) == before, "nothing was written, not even the same"
    again = here.play("Steady", "--force").wait()
    assert again.code == 0
    assert "train: 0/6" in again.err
    assert files(here.folder)[str(Path("store") / "README.md")] == before["store/README.md"]


def test_28_each_part_of_the_key_changes_it() -> None:
    identity: dict[str, Any] = dict.fromkeys(KEY_FIELDS, "x")
    keys = {make_key(identity)}
    for name in (*KEY_FIELDS, "trained_on", "network", "weights", "network_source"):
        keys.add(make_key(identity | {name: "y"}))
    assert len(keys) == len(KEY_FIELDS) + 5


@pytest.mark.parametrize(
    "changed",
    [
        ("--seed", "1"),
        ("--set", "updates=4"),
        ("--limit", "8"),
        pytest.param(("-b", "small"), marks=pytest.mark.slow),
        pytest.param(("--precision", "bf16"), marks=pytest.mark.slow),
    ],
    ids=lambda changed: changed[0].strip("-") + changed[1],
)
def test_28_another_setting_in_the_same_folders(here: Any, changed: tuple[str, str]) -> None:
    """Another key, another run's folder; the first is neither mixed with it nor touched."""
    assert here.play("Steady").wait().code == 0
    before = files(here.folder)
    assert here.play("Steady", *changed).wait().code == 0
    after = files(here.folder)
    assert len(list(here.folder.glob("runs/*"))) == 2
    kept = [name for name in before if "boards" not in name and "README" not in name]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert len(Store(here.folder / "store").records()) == 2


def test_28_an_edited_agent_is_another_agent(here: Any) -> None:
    source = here.folder / "mine.py"
    source.write_text(
        "class Mine:\n"
        "    def init(self, env, rng): return {}\n"
        "    def policy(self, state):\n"
        "        return lambda seen, memory=None: (seen['query_y'] * 0, memory)\n"
    )
    argv = ("run", "-a", "mine.py:Mine", "-e", "glyphs-5way-1shot", "--limit", "8", *SMOKE)
    assert here(*argv).code == 0
    source.write_text(source.read_text() + "# another\n")
    done = here(*argv)
    assert done.code == 0
    assert "recorded already" not in done.err
    assert len(Store(here.folder / "store").records()) == 2


def test_29_records_of_another_schema_or_env_version(here: Any) -> None:
    assert here.play("Steady").wait().code == 0
    (path,) = (here.folder / "store" / "records").rglob("*.json")
    old = json.loads(path.read_text())
    version_0 = old | {"schema": 0}
    (path.parent / ("0" * 12 + ".json")).write_text(json.dumps(version_0))
    # The same run on an earlier version of the environment, whole and sound.
    fields = {name: value for name, value in old.items() if name not in ("key", "schema")}
    Store(here.folder / "store").publish(
        Record.keyed(**{**fields, "env": {**old["env"], "version": 0}})
    )
    assert here("leaderboard", "--write", "--out", "store").code == 0
    done = here("leaderboard", "--out", "store")
    assert done.code == 0
    reported = done.out + done.err
    assert "not a record of schema 1: schema" in reported
    assert "000000000000.json" in reported
    names = sorted(each.name for each in (here.folder / "store" / "boards").glob("*.json"))
    assert names == ["sinusoid-5shot-v0.json", "sinusoid-5shot-v1.json"]
    for name in names:
        (entry,) = json.loads((here.folder / "store" / "boards" / name).read_text())["boards"]
        assert [len(row["keys"]) for row in entry["ranked"] + entry["unranked"]] == [1]


def test_30_the_clock_goes_back(here: Any, reference: Callable[[str], Any]) -> None:
    """Durations come from a clock that can't: no process may set the real one in a test."""
    done = here.play("Steady", prepare=faultkit.clock_goes_back, TZ="America/Sao_Paulo").wait()
    assert done.code == 0, done.err
    costs = here.record.cost.model_dump()
    assert all(value >= 0 for value in costs.values() if value is not None)
    assert here.record.cost.wall_s < 60
    assert here.result == reference("Steady")[0].result
    assert datetime.datetime.fromisoformat(here.record.started).utcoffset() == datetime.timedelta(0)


def test_30_no_duration_is_read_off_the_clock_on_the_wall() -> None:
    """Only ages of files are: no other line may ask for it."""
    asks = re.compile(r"\btime\.time\(\)|datetime\.now\(\)|utcnow\(|time_ns\(\)")
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for part in ("lazybench", "envs", "agents")
        for path in sorted((ROOT / part).rglob("*.py"))
        for line in path.read_text("utf-8").splitlines()
        if asks.search(line) and "monotonic_ns" not in line
    ]
    allowed = [
        "lazybench/data/cache.py: began_ns = time.time_ns()",
        "lazybench/doctor.py: age_s = time.time() - os.lstat(path).st_mtime",
        "lazybench/files.py: latest = time.time() - older_than_s",
        "lazybench/user_code.py: _SINCE_S = time.time()",
    ]
    assert sorted(set(found)) == allowed


NAMES = {
    "up": "../../up",
    "script": "<script>alert(1)</script>",
    "pipes": "a|b`c*d_e%f&g#h$i",
    "formula": '=HYPERLINK("http://x","y")',
    "emoji": "\U0001f642 Ж",
    "long": "x" * 300,
    "control": "a\x1b[31mb\rc",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_31_hostile_names(here: Any, name: str) -> None:
    """An agent names itself; it goes through the run's folder, the store, and every format."""
    source = here.folder / "mine.py"
    source.write_text(
        "class Mine:\n"
        f"    name = {name!r}\n"
        "    def init(self, env, rng): return {}\n"
        "    def policy(self, state):\n"
        "        return lambda seen, memory=None: (seen['query_y'] * 0, memory)\n"
    )
    ran = here("run", "-a", "mine.py:Mine", "-e", "glyphs-5way-1shot", "--limit", "8", *SMOKE)
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out + ran.err
    outside = [path.name for path in here.folder.parent.iterdir()]
    assert outside == [here.folder.name]
    assert here.record.agent.id == name
    boards = here.folder / "store" / "boards"
    text = (boards / "glyphs-5way-1shot-v1.md").read_text()
    assert "<script>" not in text
    widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if line[:1] == "|"}
    assert len(widths) == 1
    rows = list(csv.reader(io.StringIO((boards / "glyphs-5way-1shot-v1.csv").read_text())))
    cells = [cell for row in rows for cell in row]
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in cells)
    json.loads((boards / "glyphs-5way-1shot-v1.json").read_text())
    page = here("leaderboard", "--out", "store", "--html", "page.html")
    assert page.code == 0, page.err
    assert "<script>alert" not in (here.folder / "page.html").read_text()
    assert here("leaderboard", "--check", "--out", "store").code == 0


def test_33_the_same_seed_twice_and_on_other_threads(commands: Callable[..., Any]) -> None:
    reported = []
    for threads in ("1", "1", "3"):
        here = commands(f"n{len(reported)}")
        argv = ("run", "-a", "reptile", "-e", "sinusoid-5shot", "--out", "store", "--runs", "runs")
        more = ("-b", "smoke", "--set", "iterations=4", "--limit", "16", "--threads", threads)
        assert here(*argv, *more).code == 0
        reported.append(here.result)
    assert reported[0] == reported[1] == reported[2]


@pytest.mark.slow
def test_33_one_cell_after_the_other_and_in_parallel(commands: Callable[..., Any]) -> None:
    reported = []
    for jobs in ("1", "3"):
        here = commands(f"jobs-{jobs}")
        (here.folder / "mine.toml").write_text(
            'name = "mine"\n[[cells]]\nagents = ["reptile", "nearest_pixel"]\n'
            'envs = ["glyphs-5way-1shot"]\nseeds = [0, 1]\nbudget = "smoke"\n'
        )
        done = here("sweep", "mine.toml", "--out", "store", "--runs", "runs", "--jobs", jobs, "-q")
        assert done.code == 0, done
        records = Store(here.folder / "store").records()
        reported.append([canonical_json(record.comparable()) for record in records])
    assert len(reported[0]) >= 3
    assert reported[0] == reported[1]
