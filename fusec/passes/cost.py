"""The cost model: microseconds of a launch, before it is run.

    launch = boundary + chain + max(memory, compute)

`boundary` is what every launch costs. `chain` is what one thread waits for step by step: loads that
need the result of another load, sums over lanes, block barriers. `memory` is the first byte's
latency plus bytes over bandwidth. `compute` is the time to issue all instructions on an SM, but no
less than one warp takes to fetch code that runs once.

The counts of instructions are those of the code that `fusec.codegen.cuda` emits, which
`tests/passes/test_cost.py` counts in its PTX; times and rates are a `Gpu`'s, which
`fusec calibrate` measures. Nothing here is fitted to a kernel's time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fusec.ir.choosing import final_choice
from fusec.ir.dtypes import dtype
from fusec.ir.gpu import Gpu
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.op import INDEX
from fusec.ir.op_attention import head_sizes, seen_at
from fusec.ir.op_attention_spans import COMBINE, COMBINE_TURN
from fusec.ir.op_matvec import row_length
from fusec.ir.ops import op, weight_bytes
from fusec.ir.plan import LaunchPlan
from fusec.ir.region import KernelShape, Segment, analyse
from fusec.ir.text import parse

ERROR = 0.25  # of a prediction: what a decision has to gain or lose more than
POSITION = 64  # whose attention is meant where nobody says

WARP = 32
WARPS = (8, 16)  # of an SM that multiplies matrices: at least, at most
BASE = 45  # instructions of any matvec kernel: indices, the sum over lanes, the store
SUM = 10  # a sum over lanes
DIGITS = 100  # four activations as fixed point
CHUNK = {  # weight type -> elements a lane takes at once, and instructions for them
    "f32": (4, 19), "f16": (8, 23), "bf16": (8, 23), "q8_0": (32, 45), "q5_k": (32, 93),
}  # fmt: skip
QUANTISED = (32, 85)
FETCH = 0.6  # share of those that load and decode
HEAD_WARPS, POSITIONS = 16, 16  # of a block that attends; positions that a warp takes at once
POSITION_CHUNK, FOLD = 330, 8  # instructions for those, and for folding them into the result
HEAD_LANES = 512  # of a block that attends, and then multiplies by its share of a matrix
SCALAR_WARPS, SCALAR = 32, 14  # of a reduction's block; instructions for each element
BEST = 40  # instructions of a warp for its block's part of a fold
EXCHANGE = 4  # loads' times: to add to a count, and one and a half polls, before it is read
MIX = 4 / 3  # of integer instructions and others, which go at twice their rate, half each
FITS = 0.8  # share of L2 that weights may fill and stay


@dataclass(frozen=True)
class Cost:
    """Microseconds of one launch, by what they are spent on, and the bytes it reads and writes."""

    boundary: float
    chain: float
    memory: float
    compute: float
    nbytes: int

    @property
    def total(self) -> float:
        """All of it. Memory and compute go on at once."""
        return self.boundary + self.chain + max(self.memory, self.compute)


@dataclass(frozen=True)
class Work:
    """What a segment asks of an SM: instructions of a warp, warps, and waiting.

    `before`: instructions that need nothing of the launch in front. `loads`, `trees` and `barriers`
    follow one another, as do `exchanges` in clusters; `blocks` run at once; `shared` are bytes that
    come from L2 whatever is resident, `own` those of weights and KV cache.
    """

    instructions: float
    warps: float
    blocks: int
    own: int
    shared: int
    loads: int = 0
    trees: int = 0
    barriers: int = 0
    before: float = 0.0
    exchanges: int = 0


def launch_us(
    region: Graph | Node,
    gpu: Gpu,
    *,
    position: int = POSITION,
    far: bool = True,
    early: bool = False,
) -> Cost:
    """What one launch of a region costs.

    `far`: its weights come from memory, not from L2. `early`: it is launched while the one before
    still runs (programmatic dependent launch).
    """
    region = region.region if isinstance(region, Node) else region
    work = works(region, gpu, position)
    own, shared = sum(w.own for w in work), sum(w.shared for w in work)
    blocks = sum(w.blocks for w in work)
    boundary, touch = (gpu.early, gpu.early_touch) if early else (gpu.boundary, gpu.touch)
    few = min(blocks, gpu.sms) * gpu.sm_bytes
    reached = min(gpu.memory_bytes if far else gpu.cache_bytes, few)
    memory = (own / reached + shared / min(gpu.cache_bytes, few)) / 1e3
    if far and own and not early:  # early, the first bytes are on their way before the wait
        memory += gpu.far_load - gpu.load
    issued = MIX * gpu.instructions / gpu.sms * 1e3  # thread instructions a microsecond
    compute = max(
        (w.instructions - early * w.before) * max(gpu.instruction, w.warps * WARP / issued)
        for w in work
    )
    chain = (
        touch
        - boundary
        + max(
            w.loads * gpu.load
            + w.trees * gpu.tree
            + w.barriers * gpu.barrier
            + w.exchanges * (gpu.cluster_barrier + gpu.barrier)  # all sent, all there
            for w in work
        )
    )
    boundary += gpu.block * (blocks - gpu.sms)
    return Cost(boundary, chain, memory, compute, own + shared)


def works(region: Graph, gpu: Gpu, position: int = POSITION) -> list[Work]:
    """What the segments of a region ask for; matrices that share a kernel are spread together."""
    shape = analyse(region)
    if not shape.segments:  # nothing but a prologue, which is stored
        return [_prologue_alone(shape, position)]
    if all(s.role == "rows" for s in shape.segments):
        made = _matvecs(shape, shape.segments, gpu, position)
        return [made if shape.parts is None else _in_parts(shape.parts, made)]
    return [_work(shape, segment, gpu, position) for segment in shape.segments]


def token_costs(plan: LaunchPlan, gpu: Gpu, *, position: int = POSITION) -> list[Cost]:
    """The cost of every launch of a plan, in order."""
    regions = {kernel.name: parse(kernel.region) for kernel in plan.kernels}
    far = not resident(plan, gpu)
    ahead = {name for launch in plan.launches for name in launch.prefetch}
    known: dict[tuple[str, bool, bool], Cost] = {}
    found = []
    for launch in plan.launches:
        read = {arg.name for arg in launch.args if arg.kind == "weight"}
        key = launch.kernel, launch.early, far and not read <= ahead
        if key not in known:
            known[key] = launch_us(
                regions[launch.kernel], gpu, position=position, far=key[2], early=launch.early
            )
        found.append(known[key])
    return found


def token_us(plan: LaunchPlan, gpu: Gpu, *, position: int = POSITION) -> float:
    """A token: its launches and what is around them."""
    launches = token_costs(plan, gpu, position=position)
    return sum(c.total for c in launches) + around_us(plan, gpu)


def resident_us(plan: LaunchPlan, gpu: Gpu, *, position: int = POSITION) -> float | None:
    """The same in a resident kernel; None of a plan that has none for its waits or its argmax.

    In place of a boundary blocks arrive at a count, which others poll, then a barrier hands it on:
    `EXCHANGE` trips to L2. A token begins with one more, and there is no gap.
    """
    if not plan.overlaps or final_choice(plan) is None:
        return None
    launches = token_costs(plan, gpu, position=position)
    exchange = EXCHANGE * gpu.load + 2 * gpu.barrier
    return sum(c.total - c.boundary + exchange for c in launches) + exchange


def around_us(plan: LaunchPlan, gpu: Gpu) -> float:
    """The gap between tokens, and the launch that makes the chosen token the next input.

    There is no such launch where the plan ends with an argmax that does that as well.
    """
    return gpu.gap + (0.0 if final_choice(plan) else gpu.touch)


def moved(region: Graph | Node, position: int = POSITION) -> int:
    """Bytes that one launch has to read and write: weights, vectors, and KV cache so far."""
    region = region.region if isinstance(region, Node) else region
    read = {v.name: v for n in region.nodes for v in n.inputs if v.name not in region.producers}
    count = sum(v.nbytes for v in (*read.values(), *region.outputs) if v.name[0] == "%")
    rows: dict[str, int] = {}
    for node in region.nodes:
        for weight in node.weights:
            nbytes = weight_bytes(node, weight)
            rows[weight.name] = max(nbytes, rows.get(weight.name, 0))
        positions = {"heads": seen_at(node, position), "store": 1}.get(op(node.op).role, 0)
        count += positions * _row_bytes(v for v in node.inputs if v.is_state)
    return count + sum(rows.values())


def _row_bytes(states: Iterable[Value]) -> int:
    """Bytes of a position in states."""
    return sum(dtype(v.dtype).nbytes(v.shape[1:]) for v in states)


def resident(plan: LaunchPlan, gpu: Gpu) -> bool:
    """Whether all weights of a token stay in L2 from one to the next."""
    return plan.weights_bytes <= FITS * gpu.l2_bytes


def _work(shape: KernelShape, segment: Segment, gpu: Gpu, position: int) -> Work:
    if segment.role == "heads":
        work = _heads(segment, position)
        if shape.of_heads:
            work = _of_own_heads(shape, work, position)
        return _of_own_rows(shape, work, position) if shape.rows_of_heads else work
    if segment.role == "scalar":
        return _scalar(segment)
    if segment.role == "rows":
        return _matvecs(shape, (segment,), gpu, position)
    warps = 4
    blocks = max(1, -(-segment.size // (WARP * warps)))
    loads = max(op(n.op).loads for n in segment.nodes)  # the position, first
    nbytes = sum(_vector_bytes(n) for n in segment.nodes)
    instructions = INDEX + _elements(segment.nodes) + _prologue(shape, warps * WARP, position)
    folds = _folds(segment.nodes)
    return Work(
        instructions + BEST * folds, warps, blocks, 0, nbytes, loads,
        _norms(shape) + 2 * folds, folds,
    )  # fmt: skip


def _matvecs(shape: KernelShape, segments: Iterable[Segment], gpu: Gpu, position: int) -> Work:
    """Rows of matrices, a warp each, as evenly over the SMs as they go."""
    segments = tuple(segments)
    anchors = [n for s in segments for n in s.nodes if op(n.op).role == "rows"]
    units = sum(s.size // (2 if s.rope else 1) for s in segments)  # a warp rotates what it makes
    each = -(-units // gpu.sms)
    warps = min(max(each, WARPS[0]), WARPS[1])
    row = max(_unit(s) for s in segments) - SUM  # one sum is in BASE
    threads = WARP * min(warps, 12)
    instructions = BASE + _prologue(shape, threads, position)
    instructions += max(1.0, each / warps) * row
    vectors = {n.inputs[0].name: n.inputs[0] for n in anchors}
    for value in vectors.values():
        instructions += _form(value, anchors, threads)
    blocks = min(gpu.sms * 2, -(-units // WARPS[0]))
    own = sum(weight_bytes(n, n.inputs[1]) for n in anchors)
    whole = sum(v.nbytes for v in vectors.values()) + _parts(shape)
    folds = _folds(n for s in segments for n in s.nodes)
    instructions += BEST * folds
    before = FETCH * max(sum(_row(n) for n in s.nodes if op(n.op).role == "rows") for s in segments)
    return Work(
        instructions, warps, blocks, own, blocks * whole,
        max((op(n.op).loads for n in shape.prologue), default=0), 2 + 2 * folds, 1 + folds, before,
    )  # fmt: skip


def _unit(segment: Segment) -> float:
    """Instructions of a warp for a row of a segment, or for the two rows that it rotates."""
    rows = sum(_row(n) for n in segment.nodes if op(n.op).role == "rows")
    return rows * (2 if segment.rope else 1) + _elements(segment.nodes)


def _row(node: Node) -> float:
    """Instructions of a warp for one row of a matrix."""
    weight = node.inputs[1]
    elements, count = CHUNK.get(weight.dtype, QUANTISED)
    return -(-row_length(node) // (elements * WARP)) * count + SUM


def _form(value: Value, anchors: list[Node], threads: int) -> float:
    """Instructions of a thread to make a vector what its matvecs want: fixed point, or floats."""
    types = {n.inputs[1].dtype for n in anchors if n.inputs[0] == value}
    quads = -(-value.shape[-1] // (4 * threads))
    return quads * (DIGITS if any(dtype(t).block > 1 for t in types) else 10)


def _prologue(shape: KernelShape, threads: int, position: int) -> float:
    """Instructions of a thread for what every block computes for itself."""
    count = 0.0
    for node in shape.prologue:
        whole = op(node.op).work_whole
        if whole is not None:
            count += whole(node, threads, position)
        else:
            quads = -(-node.outputs[0].shape[-1] // (4 * threads))
            count += (INDEX + _elements([node])) * quads
    return count


def _parts(shape: KernelShape) -> int:
    """Bytes of the parts that the prologue adds up."""
    return sum(n.inputs[0].nbytes for n in shape.prologue if op(n.op).adds_parts)


def _prologue_alone(shape: KernelShape, position: int) -> Work:
    """An embedding or a norm that is a kernel of its own."""
    threads = 128
    longest = max(v.shape[-1] for v in shape.stores)
    nbytes = sum(v.nbytes for v in shape.stores) * 2 + _parts(shape)
    own = sum(weight_bytes(n, n.inputs[1]) for n in shape.prologue if op(n.op).rows_read)
    loads = max((op(n.op).loads for n in shape.prologue), default=0)
    blocks = -(-longest // (4 * threads))
    instructions = BASE + _prologue(shape, threads, position)
    return Work(instructions, threads // WARP, blocks, own, nbytes, loads, _norms(shape))


def _heads(segment: Segment, position: int) -> Work:
    """Attention, a block a head or a span of one: chunks by its warps in turn, then folded."""
    (node,) = segment.nodes
    work = _attention(node, position)
    return _projected(node, work) if node.matrices else work


def _attention(node: Node, position: int) -> Work:
    heads = int(node["heads"])
    seen = seen_at(node, position)
    span = int(node.get("span", position + 1))
    first = position + 1 - seen
    blocks = heads * (position // span - first // span + 1)
    chunks = min(span, seen) // POSITIONS + 1
    turns = -(-chunks // HEAD_WARPS)
    width = max(1.0, node.inputs[0].shape[-1] / heads / 64)  # in heads of 64 elements
    instructions = BASE + turns * POSITION_CHUNK * width + chunks * FOLD
    a_position = _row_bytes(node.inputs[1:3])
    # the keys wait for the position; a chunk is summed up twice, and once more with the others
    return Work(
        instructions, min(chunks, HEAD_WARPS), blocks, seen * a_position,
        2 * node.outputs[0].nbytes, turns, 2, 2,
    )  # fmt: skip


def _of_own_heads(shape: KernelShape, attention: Work, position: int) -> Work:
    """The same where its blocks make their head's query, key and value first, by a warp each."""
    (attends,) = shape.segments[0].nodes
    size = attends.inputs[1].shape[-1]
    instructions = 2.0 * INDEX  # the row is stored, and read again
    for node in shape.of_heads:
        whole = op(node.op).work_whole
        if whole is not None:  # a warp has one head
            instructions += whole(node, WARP * (node.outputs[0].shape[-1] // size), position)
        else:
            each = size // (2 if op(node.op).role == "pair" else 1)
            instructions += op(node.op).work * -(-each // WARP)
    read = sum(_vector_bytes(n) for n in shape.of_heads if op(n.op).role == "store")
    return replace(
        attention,
        instructions=attention.instructions + instructions / 2,  # query and key at once
        shared=attention.shared + read,
        loads=attention.loads + 1,
        trees=attention.trees + max((op(n.op).trees for n in shape.of_heads), default=0),
        barriers=attention.barriers + 1,
    )


def _of_own_rows(shape: KernelShape, attention: Work, position: int) -> Work:
    """The same where a head's cluster makes its rows of the query, key and value first."""
    (node,) = shape.segments[0].nodes
    anchors = list(shape.rows_of_heads)
    rows = sum(head_sizes(node)) / int(node["spans"]) / HEAD_WARPS * max(map(_row, anchors))
    vectors = {n.inputs[0].name: n.inputs[0] for n in anchors}.values()
    made = _prologue(shape, HEAD_LANES, position)
    made += sum(_form(value, anchors, HEAD_LANES) for value in vectors)
    return replace(
        attention,
        instructions=attention.instructions + made + rows,
        own=attention.own + sum(weight_bytes(n, n.inputs[1]) for n in anchors),
        shared=attention.shared
        + attention.blocks * (sum(v.nbytes for v in vectors) + _parts(shape)),
        loads=max((op(n.op).loads for n in shape.prologue), default=0) + attention.loads - 1,
        trees=attention.trees + 2,
        barriers=attention.barriers + 1,
        before=attention.before + FETCH * rows,
        exchanges=attention.exchanges + 1,
    )


def _projected(node: Node, attention: Work) -> Work:
    """The same with a projection: the blocks of a head share the columns of the head."""
    weight, heads, spans = node.inputs[4], int(node["heads"]), int(node["spans"])
    blocks = weight.shape[0] * weight.shape[1] // (heads * QUANTISED[0])
    each = -(-blocks // (spans * HEAD_LANES)) * QUANTISED[1]
    live = attention.blocks // heads  # where it is one, all blocks of a head make it
    together = COMBINE + COMBINE_TURN / 4 * (live - 1) if live > 1 else 0
    return replace(
        attention,
        instructions=attention.instructions + together + DIGITS + each,
        blocks=heads * spans,
        own=attention.own + weight.nbytes,
        shared=node.outputs[0].nbytes,
        trees=attention.trees + 1,
        barriers=attention.barriers + 1,
        before=FETCH * each,
        exchanges=int(live > 1),
    )


def _in_parts(node: Node, vector: Work) -> Work:
    """A vector's rows with the parts of a product: clusters of blocks exchange its elements."""
    weight = node.inputs[1]
    rows, columns = weight.shape
    branch, rounds = int(node["branch"]), -(-columns // (QUANTISED[0] * WARP))
    parts = node.outputs[0].shape[-1] // rows
    each = -(-rows // (rounds * HEAD_LANES)) * rounds * QUANTISED[1]
    return replace(
        vector,
        instructions=vector.instructions + DIGITS + each,
        blocks=parts * rounds * branch,
        own=vector.own + weight.nbytes,
        shared=vector.shared + node.outputs[0].nbytes,
        trees=vector.trees + 1,
        barriers=vector.barriers + 2,
        before=vector.before + FETCH * each,
        exchanges=vector.exchanges + 1,
    )


def _scalar(segment: Segment) -> Work:
    """One block reads a whole row."""
    (node,) = segment.nodes
    x = node.inputs[0]
    each = -(-x.shape[-1] // (SCALAR_WARPS * WARP))
    return Work(INDEX + each * SCALAR, SCALAR_WARPS, 1, 0, x.nbytes, 0, 2, 1)


def _elements(nodes: Iterable[Node]) -> float:
    return sum(op(n.op).work for n in nodes if op(n.op).role != "rows")


def _folds(nodes: Iterable[Node]) -> int:
    return sum(op(n.op).role == "fold" for n in nodes)


def _norms(shape: KernelShape) -> int:
    return sum(op(n.op).trees for n in shape.prologue)


def _vector_bytes(node: Node) -> int:
    return sum(v.nbytes for v in (*node.inputs, *node.outputs) if v.name[0] == "%")
