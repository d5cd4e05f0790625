"""A vector in fixed point, for products that many rows of a step share.

A block of 32 elements has one power of two, and each element is an integer times that: products of
such blocks with integer levels are exact. In a step of one row every thread block makes this form
for itself; in a step of many it is made once, and written to memory.

Eight rows of the step lie together, block after block, a record of 896 bytes each. A record has
the three 8-bit digits, lowest first, 256 bytes each: of row g, from byte 32 g on, words t of both
halves side by side, as lane 4g + t of a warp multiplies them. Behind those are 16 bytes for each
row: the power of two, the sum of the block's integers, and the sums of its halves, all f32.
"""

from __future__ import annotations

from fusec.ir.dtypes import DType, register
from fusec.ir.graph import Node
from fusec.ir.op import INDEX, Op
from fusec.ir.op_checks import Type, activation, elements_of, want

BLOCK, GROUP, DIGIT_BYTES, FACT_BYTES = 32, 8, 96, 16
RECORD = GROUP * (DIGIT_BYTES + FACT_BYTES)  # bytes of a block of eight rows
OWN_RECORD = RECORD + 32  # the same in shared memory (see `fusec.codegen.cuda.lib.fixed`)
WIDTHS = {"fixed24": 22, "fixed23": 21}
"""Type -> how far its unit is below the exponent of a block's largest magnitude.

fixed24 are integers of 23 bits and a sign; fixed23, of a bit less, with signed digits.
"""
for _name in WIDTHS:
    register(DType(_name, BLOCK, DIGIT_BYTES + FACT_BYTES, group=GROUP))

FIX_QUAD = 40  # instructions of a thread for four elements


def infer_fix(node: Node) -> list[Type]:
    """The same vector in the type `kind`."""
    tokens, n = activation(node.inputs[0])
    want(node["kind"] in WIDTHS, f"kind: {' or '.join(WIDTHS)}", node["kind"])
    want(n % BLOCK == 0, f"whole blocks of {BLOCK} elements", node.inputs[0].type)
    return [(str(node["kind"]), (tokens, n))]


OPS = (
    Op(
        "fix", "vector", "x: f32[T, n]", (1, 1), infer_fix, lambda x, kind: x,
        lambda n: 2 * elements_of(n), {"kind": str},
        doc="The vector in fixed point, which products of many rows read.",
        work_whole=lambda n, threads, _: (INDEX + FIX_QUAD)
        * -(-n.outputs[0].shape[-1] // (4 * threads)),
        by_quads=True,
    ),
)  # fmt: skip
