"""`lazybench tune`: what it tells of a search."""

from __future__ import annotations

import json
from typing import Any


def test_a_search_of_few_settings_says_how_many_there_were(lazybench: Any) -> None:
    where = ("-e", "glyphs-5way-1shot", "-b", "smoke", "--threads", "1", "--json")
    what = ("--set", "iterations=1", "--search", "iterations=1,2", "-n", "5")
    done = lazybench("tune", "protonet", *where, *what)
    assert done.code == 0, done.err
    assert sorted(len(tried["settings"]) for tried in json.loads(done.out)) == [0, 1]
    reported = "--trials 5 is more than the 2 distinct configurations of this search"
    assert reported in done.err
