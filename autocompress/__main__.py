"""`python -m autocompress` is the command `autocompress`."""

from .terminal.cli import main

if __name__ == "__main__":  # and not where a process that is started by another loads it anew
    main()
