"""A kernel's lines, written for several rows of the step."""

from __future__ import annotations

import pytest

from fusec.codegen.cuda.interleave import interleaved, of_row
from fusec.errors import FusecError


def lines(text: str) -> list[str]:
    return text.strip("\n").splitlines()


def test_only_what_depends_on_the_row_is_repeated() -> None:
    given = lines("""
w = load(weights, lane)
x = load(x0, lane)  # of the vector
s = float32(0)
s = fma(w, x, s)
store(x1, s)
""")
    assert interleaved(given, ["x0", "x1"], 2) == lines("""
w = load(weights, lane)
x_of0 = load(x0_of0, lane)  # of the vector
x_of1 = load(x0_of1, lane)
s_of0 = float32(0)
s_of1 = float32(0)
s_of0 = fma(w, x_of0, s_of0)
s_of1 = fma(w, x_of1, s_of1)
store(x1_of0, s_of0)
store(x1_of1, s_of1)
""")


def test_a_barrier_serves_all_rows() -> None:
    given = ["put(shared, lane)", "barrier()", "", "v = get(shared)", "# of all lanes"]
    assert interleaved(given, ["shared"], 2) == lines("""
put(shared_of0, lane)
put(shared_of1, lane)
barrier()

v_of0 = get(shared_of0)
v_of1 = get(shared_of1)
# of all lanes
""")


def test_branches_of_all_rows_are_one_and_those_of_a_row_its_own() -> None:
    given = lines("""
n = load(x0)
if lane < 4:
    v = load(x0, lane)
    if some(n > 3):
        v = v + one
    else:
        v = zero
else:
    v = zero
for step in range(2):
    put(x1, v)
""")
    assert interleaved(given, ["x0", "x1"], 2) == lines("""
n_of0 = load(x0_of0)
n_of1 = load(x0_of1)
if lane < 4:
    v_of0 = load(x0_of0, lane)
    v_of1 = load(x0_of1, lane)
    if some(n_of0 > 3):
        v_of0 = v_of0 + one
    else:
        v_of0 = zero
    if some(n_of1 > 3):
        v_of1 = v_of1 + one
    else:
        v_of1 = zero
else:
    v_of0 = zero
    v_of1 = zero
for step in range(2):
    put(x1_of0, v_of0)
    put(x1_of1, v_of1)
""")


def test_what_is_assigned_where_a_row_decides_is_the_rows() -> None:
    given = lines("""
last = zero
if some(n > 3):
    last = one
a, b = pair(last)
use(b)
""")
    found = interleaved(given, ["n"], 3)
    assert found[:3] == [f"{of_row('last', k)} = zero" for k in range(3)]
    assert found[-3:] == [f"use({of_row('b', k)})" for k in range(3)]
    assert "a_of2, b_of2 = pair(last_of2)" in found


def test_a_loop_whose_variable_carries_a_row_from_turn_to_turn() -> None:
    given = ["a = zero", "for step in range(4):", "    use(a)", "    a = load(x0, step)"]
    assert interleaved(given, ["x0"], 1) == [
        "a_of0 = zero",
        "for step in range(4):",
        "    use(a_of0)",
        "    a_of0 = load(x0_of0, step)",
    ]


def test_a_loop_over_what_a_row_has_is_the_rows() -> None:
    given = ["for k in range(n):", "    use(k)"]
    found = ["for k_of0 in range(n_of0):", "    use(k_of0)"]
    assert interleaved(given, ["n"], 1) == found


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("if some(n > 3):\n    barrier()", "barrier"),
        ("if lane < 3:\n    if some(n > 3):\n        cluster_wait()", "cluster_wait"),
        ("if some(lane > 3):\n    use(lane)\nelif n:\n    griddep_wait()", "griddep_wait"),
        ("copy_async_wait(n)", "copy_async_wait"),
    ],
)
def test_what_all_threads_do_together_cannot_be_a_rows(text: str, what: str) -> None:
    with pytest.raises(FusecError, match=f"^{what}: expected the same for all rows of a block"):
        interleaved(text.splitlines(), ["n"], 2)
