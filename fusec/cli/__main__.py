"""`python -m fusec.cli`."""

from fusec.cli import main

main()
