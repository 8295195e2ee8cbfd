"""``fss`` and ``python -m fss``: the command line, of the core's commands and the lab's."""

import fss.lab.commands  # noqa: F401  registers its commands
from fss.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
