"""What a block of `attention_rows` keeps in registers and shared memory, and what fits an SM."""

from __future__ import annotations

from dataclasses import dataclass

from fusec.codegen.cuda.arch import ARCHS
from fusec.codegen.cuda.shape import CHUNK, CHUNKS, SPAN, WARP
from fusec.ir.graph import Node
from fusec.ir.op_attention import query_of_values

THREADS = CHUNKS * WARP
WEIGHTS = 4 * (SPAN + 4)  # bytes of a row's weights of a span: eight rows begin in different banks
QUERIES = 64  # registers that a lane may fill with queries
MOST_TURNS = 2  # quads of states that a thread may keep; with ragged heads there is room for one
COPY = 16  # bytes that are copied at once
MOST_ELEMENTS = 256  # of a head: larger ones would not fit the registers
SYSTEM = 1024  # bytes of a block's shared memory that the system takes
SMALLEST = min(arch.shared for arch in ARCHS.values())


def fits(node: Node, rows: int, shared: int = SMALLEST) -> bool:
    """Whether a block can take so many rows of the attention, on SMs with that shared memory."""
    if node.op != "attention" or rows % 8 or not 8 <= rows <= 64 or query_of_values(node):
        return False
    sizes = Sizes.of(node, rows)
    if sizes.head_dim % 2 or sizes.head_dim > MOST_ELEMENTS:
        return False
    most = 1 if sizes.pieces % 8 else MOST_TURNS
    return sizes.turns <= most and sizes.tiles(shared) is not None


@dataclass(frozen=True)
class Sizes:
    """What follows from a head's elements, the bytes of one in the caches, and a block's rows."""

    head_dim: int
    element: int
    rows: int

    @classmethod
    def of(cls, node: Node, rows: int) -> Sizes:
        """Of a node of attention."""
        q, k = node.inputs[:2]
        return cls(q.shape[-1] // int(node["heads"]), 2 if k.dtype == "f16" else 4, rows)

    @property
    def piece(self) -> int:
        """Elements of a key that lane `member` of eight takes at once."""
        return next(n for n in (8, 4, 2) if self.head_dim % n == 0)

    @property
    def pieces(self) -> int:
        """Of a head."""
        return self.head_dim // self.piece

    @property
    def parts(self) -> int:
        """Pieces that a lane takes."""
        return -(-self.pieces // 8)

    @property
    def together(self) -> int:
        """Rows whose queries a lane keeps."""
        return next(n for n in (8, 4, 2) if n * self.parts * self.piece <= QUERIES)

    @property
    def sets(self) -> int:
        """Chunks of a warp's turn: eight lanes end with the scores of so many rows and chunks."""
        return 8 // self.together

    @property
    def quads(self) -> int:
        """Quads of a head."""
        return -(-self.head_dim // 4)

    @property
    def width(self) -> int:
        """Bytes of a position in shared memory."""
        return 4 * self.quads * self.element

    @property
    def is_copied(self) -> bool:
        """Whether positions are whole 16 bytes, which asynchronous copies take."""
        return self.head_dim * self.element % COPY == 0

    @property
    def query_bytes(self) -> int:
        """Of all rows' queries."""
        return self.parts * 8 * self.piece * 4 * self.rows

    @property
    def turns(self) -> int:
        """Quads of states that a thread has."""
        return -(-self.rows * self.quads // THREADS)

    @property
    def out(self) -> int:
        """Bytes of a chunk's result."""
        return 16 * self.rows * self.quads

    def places(self, keys: int, values: int) -> dict[str, int]:
        """Bytes of what lies in shared memory, for tiles of so many positions."""
        each = 4 * CHUNKS * self.rows
        return {
            "room": keys * self.width,
            "other_room": keys * self.width,
            "queries": self.query_bytes,
            "outs": values // CHUNK * self.out,
            "weights": WEIGHTS * self.rows,
            "maxima": each,
            "sums": each,
            "factors": each,
            "tops": 4 * self.rows,
            "ends": 4 * self.rows,
        }

    def tiles(self, shared: int) -> tuple[int, int] | None:
        """Positions of keys, and of values, that are in shared memory at once; None: too many."""
        sizes = (256, 128, 64, 32, 16)
        for values in sizes:
            for keys in sizes:
                enough = keys >= max(values, CHUNK * self.sets)
                if enough and sum(self.places(keys, values).values()) <= shared - SYSTEM:
                    return keys, values
        return None
