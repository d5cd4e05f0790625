"""How tiles use memory: banks of shared memory, lines, the queues in front of memory, barriers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fusec.codegen import formats
from fusec.codegen.cuda.candidates import default_of
from fusec.codegen.cuda.emit import emit
from fusec.codegen.cuda.ring import LINE, Ring
from fusec.codegen.cuda.shape import TILE_WARPS
from fusec.codegen.formats import QuantFormat
from fusec.ir.choice import Choice
from fusec.ir.plan import Kernel
from fusec.writer import Writer
from tests.codegen.cuda.test_tiles import FORMATS, LONG, kernel_of, matvec

Read = tuple[int, int]  # address, bytes
SIZES = {"u8": 1, "u16": 2, "u32": 4, "u32x2": 8, "u32x4": 16}


def reads_of(name: str, call: str, lane: int) -> list[Read]:
    """What one lane reads of a record at 0 in a `call` of a function that the format writes."""
    found: list[Read] = []

    def load(nbytes: int) -> Callable[[int], Any]:
        return lambda address: found.append((address, nbytes)) or 0

    scope: dict[str, Any] = {f"load_shared_{kind}": load(n) for kind, n in SIZES.items()}
    scope |= {"inline": lambda f: f, "uint32": int, "below": lambda value, _: value, "lane": lane}
    fmt = formats.get(name)
    assert isinstance(fmt, QuantFormat)
    exec(fmt.cuda_functions()[f"{call.split('(', maxsplit=1)[0]}"], scope)
    eval(call, scope)
    return found


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("of", ["planes", "fields"])
def test_no_bank_has_two_words_to_give_at_once(name: str, of: str) -> None:
    """A warp's lanes are served 128 bytes at a time; all banks give a word each."""
    call = f"load_tile_{name}(0, lane, 1)"
    if of == "fields":
        call = f"tile_fields_{name}(0, lane >> 2, 8, lane & 1, 2, lane >> 1 & 1)"
    lanes = [reads_of(name, call, lane) for lane in range(32)]
    assert lanes[0]
    for reads in zip(*lanes, strict=True):
        at_once = 32 // max(1, reads[0][1] // 4)
        for first in range(0, 32, at_once):
            words = defaultdict(set)
            for address, nbytes in reads[first : first + at_once]:
                for word in range(address // 4, -(-(address + nbytes) // 4)):
                    words[word % 32].add(word)
            assert all(len(asked) == 1 for asked in words.values())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("room", [3000, 9000, 1 << 20])
def test_slots_lie_in_their_lines_as_the_records_do(name: str, room: int) -> None:
    fmt = formats.get(name)
    assert isinstance(fmt, QuantFormat)
    record = fmt.tile.record_bytes
    ring = Ring(Writer(), record, total=5, room=room)
    assert 2 <= ring.depth <= 5 and (ring.nbytes <= room or ring.depth == 2)
    for warp in range(TILE_WARPS):
        for slot in range(ring.depth):
            assert (warp * ring.nbytes + slot * ring.slot - warp * record) % LINE == 0
    assert ring.nbytes >= (ring.depth - 1) * ring.slot + record


def deep(columns: int = LONG) -> Kernel:
    return replace(kernel_of(matvec("q4_0", 2048, columns), level=3), overlaps=True)


def body(kernel: Kernel, choice: Choice | None = None) -> list[str]:
    source = emit(replace(kernel, choice=choice)).source
    return [line.split("#")[0].strip() for line in source.partition("def matvec")[2].splitlines()]


def test_a_copy_has_arrived_before_the_next_is_asked_for() -> None:
    """Where others run meanwhile: their reads and writes would wait in the same queues."""
    kernel = deep(4 * LONG)
    lines = body(kernel)
    front = [line for line in lines[: lines.index("griddep_wait()")] if "copy_async_" in line]
    steps = [line for line in front if "copy_async_16" not in line]
    count = steps.count("copy_async_commit()")
    assert count > 1
    assert steps == ["copy_async_commit()", "copy_async_wait_0()"] * (count - 1) + steps[-1:]
    alone = body(replace(kernel, overlaps=False))
    assert alone.count("copy_async_wait_0()") == 1  # for the products


def test_warps_that_make_their_own_digits_do_not_wait_for_others() -> None:
    def barriers(columns: int) -> list[str]:
        lines = body(deep(columns), Choice(TILE_WARPS, min_blocks=2))
        product = next(n for n, line in enumerate(lines) if "tile_product(" in line)
        made = max(n for n, line in enumerate(lines[:product]) if "store_tile_digits(" in line)
        return [line for line in lines[made:product] if line.endswith("barrier()")]

    for columns in (LONG, 4 * LONG):
        assert "warp_barrier()" in barriers(columns) and "barrier()" not in barriers(columns)


def test_long_rows_come_in_pairs_and_let_the_next_launch_begin_at_once() -> None:
    long = deep(4 * LONG)
    assert default_of(long).paired and default_of(long).release == "begin"
    assert not default_of(deep()).paired and default_of(deep()).release == "begin"
    below = default_of(replace(long, overlaps=False))
    assert not below.paired and below.release == "wait"
