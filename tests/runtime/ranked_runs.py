"""What torchrun starts: runs that all ranks share, `ranked_runs.py '[{"agent": …}, …]'`."""

import json
import sys
from pathlib import Path

from lazybench.runner.request import RunRequest
from lazybench.runner.run import run

if __name__ == "__main__":
    for fields in json.loads(sys.argv[1]):
        folders = {name: Path(fields.pop(name)) for name in ("out", "runs")}
        run(RunRequest(**fields, **folders))
