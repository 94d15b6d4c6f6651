from __future__ import annotations

from dataclasses import replace

import pytest

from lazybench.errors import UsageError
from lazybench.runner.request import resolve_env, with_protocol


def test_a_run_may_choose_what_the_environment_lets_it() -> None:
    spec, _ = resolve_env("glyphs-5way-1shot")
    assert with_protocol(spec, {}) is spec
    open_spec = replace(spec, options=("shot",))
    assert with_protocol(open_spec, {"shot": "3"}).kwargs["shot"] == 3
    assert open_spec.kwargs["shot"] == 1
    with pytest.raises(UsageError, match=r"no setting 'shots' that a run may change.*shot"):
        with_protocol(open_spec, {"shots": 3})
    with pytest.raises(UsageError, match="Settings: none"):
        with_protocol(spec, {"shot": 3})
