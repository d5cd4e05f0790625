"""The command `fusec`, which is `python -m fusec` too."""

import sys


def main() -> None:
    """Entry point. Ctrl-C ends it in the same way while the command line is still imported."""
    try:
        from fusec.cli import main as command_line
    except KeyboardInterrupt:
        sys.exit(130)
    command_line()


if __name__ == "__main__":
    main()
