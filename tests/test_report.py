"""What `fusec inspect` and `compile` print of a compilation: totals worked out by hand, units."""

from __future__ import annotations

import pytest

from fusec import driver, report
from fusec.ir import Builder
from tests.graphs import Types, llama_graph
from tests.tables import row_of


def small_graph():
    b = Builder("g")
    x = b.input("x", (1, 64))
    return b.build(b.silu(b.matvec(x, b.weight("w", (32, 64), "q8_0"), name="y"), name="z"))


def test_totals_of_a_model():
    """Two layers of q8_0 with a cache of 16 positions: blocks of 34 bytes for 32 weights."""
    graph = llama_graph(layers=2, types=Types("q8_0"), context=16)
    data = report.summary(driver.compile(graph, level=0))
    embedding, layer = 64 * 64, 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64
    assert data["weights_bytes"] == (embedding + 2 * layer) // 32 * 34 + (2 * 2 + 1) * 64 * 4
    assert data["states_bytes"] == 2 * 2 * 16 * 2 * 16 * 2  # layers, k and v, rows of 2 x 16, f16
    assert data["dispatches"] == {
        "forward": 38,
        "per_layer": 18,
        "other": {"embed": 1, "sample": 1},
    }
    assert sum(data["kernels"].values()) == 40
    assert data["kernels"][next(k for k in data["kernels"] if k.startswith("attention"))] == 2
    assert (data["tokens"], data["level"], data["target"]) == (1, 0, "cpu")


def test_bytes_and_operations_of_a_graph():
    """One launch a node: the product's result is written, and read again."""
    data = report.summary(driver.compile(small_graph(), level=0))
    assert data["bytes_moved"] == (64 * 4 + 32 * 2 * 34 + 32 * 4) + (32 * 4 + 32 * 4)
    assert data["flops"] == 2 * 32 * 64 + 4 * 32
    assert data["critical_path"] == 2
    assert data["arena_bytes"] == 2 * 256  # two values of 128 bytes that are alive together


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 KB"), (1_549_000, "1.5 MB"),
        (999_999, "1,000.0 KB"), (1e6, "1.0 MB"), (2.25e9, "2.2 GB"), (4e12, "4,000.0 GB"),
    ],
)  # fmt: skip
def test_bytes_in_powers_of_ten(count, shown):
    assert report.size(count) == shown


def test_the_plan_s_line_and_tables_name_each_number():
    refused = [{"rule": "r", "nodes": ["%a"], "reason": "no: way"}] * 3
    stages = [
        {"pass": "one", "rule": "a => b", "before": 20, "after": 15, "ms": 1.26, "hits": 5,
         "refused": refused},
        {"pass": "two", "rule": "", "before": 15, "after": 14, "ms": 0.04, "hits": 0,
         "refused": []},
    ]  # fmt: skip
    data = {
        "name": "m", "level": 2, "target": "cpu", "tokens": 1, "critical_path": 55,
        "dispatches": {"forward": 61, "per_layer": 6, "other": {"embed": 1, "sample": 2}},
        "weights_bytes": 7_000_000, "states_bytes": 3_000_000, "first_states_bytes": 60_000,
        "arena_bytes": 5_000,
        "kernels": {"first": 30, "second": 1}, "tuned": {}, "sizes": {},
    }  # fmt: skip
    assert report.plan_line(data) == (
        "m at -O2 for cpu: 64 dispatches a token (61 forward, 1 embed, 2 sample), 6 a layer; "
        "critical path 55; weights 7.0 MB, KV cache 60.0 KB at first and 3.0 MB when full, arena "
        "5.0 KB"
    )
    wide = report.plan_line(data | {"tokens": 40})
    assert wide.startswith("m at -O2 for cpu: 64 dispatches a step of 40 rows (61 forward, ")
    assert row_of(report.plan_table(data), "first") == {"kernel": "first", "launches": "30"}
    tuned = report.plan_table(data | {"tuned": {"second": "8 warps"}})
    assert [row_of(tuned, name)["tuned"] for name in ("first", "second")] == ["", "8 warps"]
    table = report.stage_table(stages)
    assert row_of(table, "one") == {
        "pass": "one", "nodes": "20 -> 15", "ms": "1.3", "hits": "5", "refused": "3", "merges": "a"
    }  # fmt: skip
    assert row_of(table, "two")["hits"] == row_of(table, "two")["refused"] == ""
    assert report.refusal_lines(stages) == ["refused 3x r, for example", "  %a: no: way"]
