"""`fusec calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fusec.cli.console import out, progress
from fusec.cli.options import Quiet
from fusec.errors import FusecError
from fusec.files import check_outputs, write_whole


def calibrate(
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the constants there as well."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure this machine's GPU: bandwidths, kernel boundaries, barriers, exchanges.

    The cost model uses the result from then on, for every GPU of that name.
    """
    from fusec.backends import NoGpu
    from fusec.bench import calibrate as measuring
    from fusec.ir import gpus

    check_outputs([json_file])  # before the long work, not after it
    try:
        with progress("measuring") as advance:
            data = measuring.run(advance)
    except NoGpu as error:
        raise FusecError(f"calibrating measures this machine's GPU: {error.found}") from None
    path = gpus.save(data)
    text = json.dumps(data, indent=1) + "\n"
    if json_file is not None:
        write_whole(json_file, text)
    out.print(measuring.table(data))
    out.print(f"written to {path}")
