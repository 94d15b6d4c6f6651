"""`python -m lazybench`: the command line."""

from __future__ import annotations

import sys

from lazybench.cli import main

if __name__ == "__main__":
    sys.exit(main())
