"""Element types: bytes of tensors, also where rows lie in groups."""

import pytest

from fusec.errors import FusecError
from fusec.ir.dtypes import DType, dtype, register
from fusec.ir.op_fixed import BLOCK, GROUP, RECORD, WIDTHS


@pytest.mark.parametrize(
    ("name", "shape", "nbytes"),
    [
        ("f32", (3, 5), 60),
        ("f16", (7,), 14),
        ("f64", (2, 3, 4), 192),
        ("q4_0", (3, 64), 3 * 2 * 18),
        ("i32", (), 4),
        ("f32", (0, 5), 0),
    ],
)
def test_bytes_are_those_of_whole_blocks(name, shape, nbytes):
    assert dtype(name).group == 1
    assert dtype(name).nbytes(shape) == nbytes


@pytest.mark.parametrize("kind", WIDTHS)
@pytest.mark.parametrize(
    ("rows", "groups"), [(0, 0), (1, 1), (7, 1), (8, 1), (9, 2), (16, 2), (512, 64)]
)
def test_rows_in_fixed_point_come_in_groups_of_eight(kind, rows, groups):
    assert dtype(kind).nbytes((rows, 3 * BLOCK)) == groups * 3 * RECORD
    assert RECORD == GROUP * 112 == 896


def test_a_type_has_one_description():
    known = dtype("fixed24")
    assert register(known) is known
    with pytest.raises(FusecError, match="dtype fixed24 is registered as"):
        register(DType("fixed24", 32, 112))
    with pytest.raises(FusecError, match=r"unknown dtype 'fixed9': known are .*fixed23, fixed24"):
        dtype("fixed9")
