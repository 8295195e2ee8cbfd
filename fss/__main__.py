"""``python -m fss``: the command line."""

from fss.cli import main

main()
