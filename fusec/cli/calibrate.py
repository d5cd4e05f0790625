"""`fusec calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fusec.cli.console import check_writable, out, progress, write_text


def calibrate(
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the constants there as well."),
    ] = None,
) -> None:
    """Measure this machine's GPU: bandwidths, kernel boundaries, barriers, exchanges.

    The cost model uses the result from then on, for every GPU of that name.
    """
    from fusec.bench import calibrate as measuring
    from fusec.ir import gpus

    if json_file is not None:
        check_writable(json_file)
    with progress("measuring") as advance:
        data = measuring.run(advance)
    path = gpus.save(data)
    text = json.dumps(data, indent=1) + "\n"
    if json_file is not None:
        write_text(json_file, text)
    out.print(measuring.table(data))
    out.print(f"written to {path}")
