"""`fusec calibrate`."""

from __future__ import annotations

from fusec.cli.console import err, out, progress, show_json, write_json
from fusec.cli.options import AsJson, Quiet, Results
from fusec.errors import FusecError
from fusec.files import check_outputs


def calibrate(
    output: Results = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure this machine's GPU: bandwidths, kernel boundaries, barriers, exchanges.

    The cost model uses the result from then on, for every GPU of that name.
    """
    from fusec.backends import NoGpu
    from fusec.bench import calibrate as measuring
    from fusec.ir import gpus

    check_outputs([output])  # before the long work, not after it
    try:
        with progress("measuring") as advance:
            data = measuring.run(advance)
    except NoGpu as error:
        raise FusecError(f"calibrating measures this machine's GPU: {error.found}") from None
    path = gpus.save(data)
    err.print(f"written to {path}", style="dim")
    write_json(output, data)
    if as_json:
        show_json(data)
        return
    out.print(measuring.table(data))
