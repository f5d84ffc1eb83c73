"""`python -m autocompress` is the command `autocompress`."""

from .terminal.cli import main

main()
