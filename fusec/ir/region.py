"""How a set of nodes fits into one kernel: what is computed whole, what is spread over the grid.

The thread blocks of a kernel (threads, on the CPU) do not exchange what they compute. So a region
can be one kernel if it splits into

- a *prologue*: vectors that every block computes whole for itself (embedding, norm), because
  something in the region reads all of them, and
- *segments*: index spaces spread over the blocks. The nodes of a segment share one index: matvecs
  of equally many rows (the anchors) with the element-wise work before and after them, or one
  attention over its heads, or one reduction of a whole row to a scalar. A fold belongs to the
  segment that it reads: each block folds the elements it has.

Attention may have a prologue of its own, `of_heads`: what its blocks make of one head before they
attend. That is the head's query, and the row of each cache that this step appends: norms of heads,
rotations and other element-wise work on what another kernel made, or on rows of products that the
blocks of the head make themselves, `rows_of_heads`.

Blocks exchange something in two cases. Behind a single segment of rows, a cluster of blocks may
exchange the elements they made and multiply them by their columns of another matrix, which makes
partial sums (role `parts`). And the blocks of a head, a cluster, may each make a share of the
head's rows of the query, key and value products, and exchange them before they attend.

Beside all this, a kernel may write zeros for the sums of a later one (role `clear`), and add the
parts that it makes to sums (role `into`): neither needs an index of its own.

The passes ask here whether a merge is possible; the emitters ask here what to emit.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from fusec.ir.graph import Graph, Node, Value, outside
from fusec.ir.op import LOCAL
from fusec.ir.op_attention import head_sizes
from fusec.ir.op_fixed import BLOCK
from fusec.ir.op_groups import is_grouped
from fusec.ir.op_matvec import branch_of, heads_of, is_fixed
from fusec.ir.ops import in_place, op, picks_rows
from fusec.ir.region_heads import BESIDE, NotOneKernel, is_shared, made_for_heads, not_needed

WHOLE_READERS = ("vector", "rows", "heads", "scalar")
FROM_MEMORY = ("heads", "scalar")  # whose code reads vectors where another kernel left them
ON_INPUT = ("store", "fold")  # whose index is that of what they read, not of what they make


@dataclass(frozen=True)
class Segment:
    """Nodes sharing one index space of `size` elements a token, in order."""

    nodes: tuple[Node, ...]
    size: int

    @property
    def role(self) -> str:
        """'heads' and 'scalar' segments hold that one node; 'rows' has matvecs; else 'element'."""
        roles = {op(n.op).role for n in self.nodes}
        return next((r for r in ("heads", "scalar", "rows") if r in roles), "element")

    @property
    def rope(self) -> Node | None:
        """The rotation that makes this segment go by pairs of elements, if there is one."""
        return next((n for n in self.nodes if op(n.op).role == "pair"), None)


@dataclass(frozen=True)
class KernelShape:
    """A region, split. `stores` are the prologue vectors that somebody outside needs.

    `parts`: the product whose partial sums are made of the one segment's elements, if there is one.
    `of_heads`: what the blocks of the one segment, attention, make of their head in front of it.
    `rows_of_heads`: the products of whose rows a cluster makes its head's before that.
    `clears`: the sums of later kernels, in which this one writes zeros. `into`: adds the parts that
    it makes to such sums.
    """

    prologue: tuple[Node, ...]
    segments: tuple[Segment, ...]
    stores: tuple[Value, ...]
    parts: Node | None = None
    of_heads: tuple[Node, ...] = ()
    rows_of_heads: tuple[Node, ...] = ()
    clears: tuple[Value, ...] = ()
    into: Node | None = None

    @property
    def anchors(self) -> tuple[Node, ...]:
        """All products by rows of matrices."""
        nodes = (n for s in self.segments for n in s.nodes)
        return (*self.rows_of_heads, *(n for n in nodes if op(n.op).role == "rows"))

    @property
    def prologue_bytes(self) -> int:
        """Memory one block needs to hold the prologue's vectors."""
        nodes = [*self.prologue, *(n for s in self.segments for n in s.nodes)]
        whole = {v.name for n in nodes if op(n.op).role in WHOLE_READERS for v in n.inputs}
        return sum(
            v.nbytes
            for n in self.prologue
            for v in n.outputs
            if v.name in whole or not op(n.op).by_elements
        )


def parameters(region: Graph) -> tuple[Value, ...]:
    """What a kernel of this region is bound to: all it reads, then every activation it makes.

    What is made in place, as a state that is appended to, is what is read, and no parameter of its
    own. Tables (`fusec.ir.tables`) follow at the end.
    """
    read, _ = outside(region.nodes, ())
    placed = in_place(region.nodes)
    return (*read, *(v for v in region.outputs if not v.is_state and v.name not in placed))


def analyse(region: Graph) -> KernelShape:
    """Split a region. Raises NotOneKernel with the reason when it cannot be one kernel."""
    for_heads = made_for_heads(region)
    rows_of_heads = tuple(n for n in for_heads if op(n.op).role == "rows")
    of_heads = tuple(n for n in for_heads if n not in rows_of_heads)
    whole = _whole(region, {n.name for n in of_heads})
    own = {n.name for n in for_heads}
    prologue = tuple(n for n in region.nodes if n.name in whole)
    products = [n for n in region.nodes if op(n.op).role == "parts"]
    if len(products) > 1:
        raise NotOneKernel(f"two products in parts: {products[0].name} and {products[1].name}")
    product = products[0] if products else None
    spread = [
        n
        for n in region.nodes
        if n.name not in whole | own and n is not product and op(n.op).role not in BESIDE
    ]
    import networkx as nx

    local = nx.Graph()
    local.add_nodes_from(n.name for n in spread)
    for node in spread:
        for value in node.inputs:
            maker = region.producers.get(value.name)
            if maker is not None and maker.name not in whole | own:
                local.add_edge(maker.name, node.name)
    components = [set(c) for c in nx.connected_components(local)]
    segments = tuple(_segment(tuple(n for n in spread if n.name in c)) for c in components)
    made = {v.name for n in prologue for v in n.outputs}
    stores = tuple(v for v in region.outputs if v.name in made)
    if product is not None and (reason := _no_parts(region, product, segments)):
        raise NotOneKernel(f"{product.op} {product.name} {reason}")
    clears = tuple(n.outputs[0] for n in region.nodes if op(n.op).role == "clear")
    into = next((n for n in region.nodes if op(n.op).role == "into"), None)
    given = prologue, segments, stores, product, of_heads, rows_of_heads
    shape = KernelShape(*given, clears, into)
    if reason := _heads_apart(shape) or _rows_apart(shape):
        raise NotOneKernel(reason)
    return shape


@dataclass(frozen=True)
class Own:
    """What thread blocks that take tiles may bring into fixed point, each for itself.

    Vectors of at most `blocks` blocks of 32 elements, for matrices of at most `rows` rows: for
    more, it is made too often.
    """

    blocks: int = 0
    rows: int = 0


def heads_apart(shape: KernelShape, most: int) -> str | None:
    """Why blocks that attend do not make their heads' rows, or None if they can.

    `most`: elements of a head that they make; 0 if they make nothing.
    """
    if not shape.of_heads:
        return None
    made, (node,) = shape.of_heads[-1], shape.segments[0].nodes
    if not most:
        return f"{node.op} {node.name} reads {made.name} from memory, and the same kernel makes it"
    size = max(head_sizes(node))
    if size <= most:
        return None
    return f"heads of {size} elements are too much to make for blocks that attend, at most {most}"


def many_rows_apart(shape: KernelShape, own: Own = Own()) -> str | None:
    """The reason why products of many rows share no kernel with the rest, or None if they can.

    Their thread blocks take tiles of rows and of the step's rows, and compute no vector whole but
    their `own`.
    """
    anchors = [n for s in shape.segments for n in s.nodes if op(n.op).role == "rows"]
    fixed = [n for n in anchors if is_fixed(n)]
    if not fixed:
        return None
    own = Own() if any(map(is_grouped, fixed)) else own
    if reason := _not_own(shape, sum(n.inputs[1].shape[0] for n in fixed), own):
        return f"{reason}, {fixed[0].name} in tiles"
    if len({(n.inputs[0], n.inputs[2:], n["rows"]) if is_grouped(n) else () for n in fixed}) > 1:
        return f"rows of {fixed[0].name} and of {fixed[-1].name} are not grouped alike"
    if len({n.name for n in anchors}) > len(fixed) or any(s.role != "rows" for s in shape.segments):
        return f"{fixed[0].name} is made in tiles of rows of the step, the rest is not"
    for segment in shape.segments:
        pairs = {(n.inputs[0].name, n.inputs[1].dtype, n.inputs[1].layout, branch_of(n)): n.name
                 for n in segment.nodes if op(n.op).role == "rows"}  # fmt: skip
        if len(pairs) > 1:
            one, other, *_ = sorted(pairs.values())
            return (
                f"{one} and {other} are made of two vectors, of matrices of two types, or in two "
                "orders"
            )
    folds = [n.name for s in shape.segments for n in s.nodes if op(n.op).role == "fold"]
    return f"{folds[0]} folds one row of the step, blocks have several" if folds else None


def _not_own(shape: KernelShape, rows: int, own: Own) -> str | None:
    """Why blocks that take tiles of so many rows do not make a prologue for themselves, or None."""
    inside = {v.name for n in shape.prologue for v in n.outputs}
    for node in shape.prologue:
        blocks = -(-node.outputs[0].shape[-1] // BLOCK)
        is_far = node.op != "fix" and any(v.name in inside for v in node.inputs)
        fits = blocks <= own.blocks and rows <= own.rows
        if not op(node.op).by_quads or is_far or shape.stores or not fits:
            return f"{node.op} {node.name} is made once for all that read it"
    return None


def _no_parts(region: Graph, product: Node, segments: tuple[Segment, ...]) -> str | None:
    """Why a product cannot be made of what blocks have, or None if it can."""
    vector = product.inputs[0]
    others = [n for n in region.users.get(vector.name, ()) if n is not product]
    if others or vector.name in region.needed:
        return f"has to be the only reader of {vector.name}"
    if [s.role for s in segments] != ["rows"] or segments[0].rope is not None:
        return f"needs one segment of rows, not rotated, that makes {vector.name}"
    if picked := [n.name for n in segments[0].nodes if picks_rows(n)]:
        return f"needs rows that are known before the launch in front is complete, not {picked[0]}"
    if segments[0].nodes[-1].name != vector.name:
        return f"needs {vector.name} from the segment in front"
    return None


def _heads_apart(shape: KernelShape) -> str | None:
    """Why a product by heads shares no kernel with the rest, or None if it can.

    Its blocks have rows of one head, and make no more of the vector than that head's part.
    """
    anchors = [n for s in shape.segments for n in s.nodes if op(n.op).role == "rows"]
    node = next((n for n in anchors if heads_of(n) > 1), None)
    if node is None:
        return None
    if len(shape.segments) > 1 or len({n.name for n in anchors}) > 1 or shape.parts is not None:
        return f"{node.op} {node.name} has blocks for each head, the rest has not"
    rope, rows = shape.segments[0].rope, node.inputs[1].shape[0] // heads_of(node)
    if rope is not None and rows % int(rope["head_dim"]):
        return f"{rope.name} turns heads of {rope['head_dim']}, {node.name} makes heads of {rows}"
    return None


def _rows_apart(shape: KernelShape) -> str | None:
    """Why a head's rows of products are not made by the blocks that attend, or None if they are."""
    if not shape.rows_of_heads:
        return None
    node = next(n for s in shape.segments for n in s.nodes if op(n.op).role == "heads")
    if len(shape.segments) > 1:
        other = next(s.nodes[0] for s in shape.segments if node not in s.nodes)
        return not_needed(other, node)
    if len(shape.rows_of_heads) != len(node.inputs[:3]):
        first = shape.rows_of_heads[0]
        return (
            f"{node.op} {node.name} needs a query, a key and a value of products of their own, "
            f"found {len(shape.rows_of_heads)}, the first of them {first.name}"
        )
    return None


def _whole(region: Graph, own: Container[str]) -> set[str]:
    """Names of the nodes whose result somebody in the region reads whole, and what they need.

    `own`: those that attention's blocks make of their own head.
    """
    nodes = [n for n in region.nodes if n.name not in own]
    whole: set[str] = {n.name for n in nodes if op(n.op).role == "vector"}
    for node in reversed(nodes):
        reads_whole = op(node.op).role in WHOLE_READERS or node.name in whole
        for value in node.inputs:
            maker = region.producers.get(value.name)
            if maker is None or maker.name in own or not (reads_whole or is_shared(node, value)):
                continue
            if op(maker.op).role in (*LOCAL, "vector") and not value.is_state:
                if op(node.op).role in FROM_MEMORY:
                    raise NotOneKernel(
                        f"{node.op} {node.name} reads {value.name} from memory, and the same "
                        "kernel makes it"
                    )
                whole.add(maker.name)
                continue
            what = "appends to" if value.is_state else "spreads over its blocks"
            raise NotOneKernel(
                f"{node.op} {node.name} needs all of {value.name}, which the same kernel {what}"
            )
    return whole


def _segment(nodes: tuple[Node, ...]) -> Segment:
    roles = [op(n.op).role for n in nodes]
    for alone in ("heads", "scalar"):
        if alone in roles and len(nodes) > 1:
            node = nodes[roles.index(alone)]
            raise NotOneKernel(f"{node.op} {node.name} shares no index with its neighbours")
    ropes = {(n["pairing"], n["head_dim"], n["dims"]) for n in nodes if n.op == "rope"}
    if len(ropes) > 1:
        raise NotOneKernel(f"{nodes[0].name}: rotations pair elements differently: {sorted(ropes)}")
    picked = [n.name for n in nodes if picks_rows(n)]
    if picked and ropes:
        raise NotOneKernel(f"{picked[0]}: rows that an index names are not made in pairs")
    folded = {n.name for n, role in zip(nodes, roles, strict=True) if role == "fold"}
    for node in nodes:
        if read := sorted(folded & {v.name for v in node.inputs}):
            raise NotOneKernel(
                f"{node.op} {node.name} needs {read[0]}, of which each block makes a part"
            )
    if folded and ropes:
        raise NotOneKernel(f"{nodes[-1].name}: a fold takes elements in order, a rotation in pairs")
    last = nodes[-1]
    source = last.outputs[0]
    if roles[-1] in ON_INPUT:
        source = last.inputs[1 if roles[-1] == "store" else 0]
    return Segment(nodes, source.shape[-1] if roles[-1] != "scalar" else 1)
