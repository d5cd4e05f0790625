"""The last step: a scheduled graph and its memory become a LaunchPlan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from fusec.errors import FusecError
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.ops import op
from fusec.ir.pages import kind_of, windows
from fusec.ir.plan import ROWS, Arg, Kernel, Launch, LaunchPlan, Tensor
from fusec.ir.region import parameters
from fusec.ir.tables import tables_of
from fusec.passes.canonical import canonical, digest
from fusec.passes.memory import Slot, arena_bytes, plan_memory


def one_row(_region: Graph, _tokens: int) -> int:
    """For targets whose kernels are told the rows otherwise, or have one."""
    return 0


def lower(
    graph: Graph,
    target: str,
    level: int,
    rows: Callable[[Graph, int], int] = one_row,
    extra: Collection[str] = (),
) -> LaunchPlan:
    """Bind every node's parameters to memory and name the kernels.

    `rows`: of a canonical region and a step's T, how many rows a block of its kernel takes (see
    `Kernel`). Behind all else kernels are passed the pages of the states that they use, and those
    that take several rows, the number of rows. `extra`: nodes that only make values which somebody
    asked for; their launches are a group of their own.
    """
    slots, seen = plan_memory(graph), windows(graph)
    kernels: dict[str, Kernel] = {}
    launches = []
    waits = _waits(graph, slots)
    rows_taken: dict[str, int] = {}  # of the same region as often as it has layers
    leading: set[str] = set()
    for i, node in enumerate(graph.nodes):
        region = canonical(node)
        name = f"{region.name}_{digest(region)}"
        if name not in rows_taken:
            rows_taken[name] = rows(region, graph.tokens)
        if taken := rows_taken[name]:
            name = f"{name}_{taken}"
        leads = name in leading or _makes_rows_of_heads(graph.nodes[i + 1 : i + 2])
        leading |= {name} if leads else set()
        kernels[name] = Kernel(name, str(replace(region, name=name)), rows=taken, leads=leads)
        looked_up = tuple(Arg("table", table) for table in tables_of(node.ops))
        told = (ROWS,) if taken else ()
        bound = parameters(node.region)
        pages = _pages(node, bound, seen)
        args = (*(_arg(v, slots) for v in bound), *looked_up, *pages, *told)
        writes = tuple(v.buffer for v in node.outputs)
        group = "outputs" if node.name in extra else _group(node)
        launches.append(Launch(node.name, name, args, writes, waits[i], node.layer, group))
    return LaunchPlan(
        name=graph.name,
        target=target,
        level=level,
        tokens=graph.tokens,
        inputs=_tensors(graph.inputs),
        states=_tensors(graph.states),
        weights=_tensors(graph.weights),
        tables=tables_of(graph.walk()),
        outputs={v.name: Tensor(v.dtype, v.shape) for v in graph.outputs},
        output_args={v.name: _arg(v, slots) for v in graph.outputs},
        kernels=tuple(kernels.values()),
        launches=tuple(launches),
        arena_bytes=arena_bytes(slots),
        weights_bytes=sum(v.nbytes for v in graph.weights),
        windows=seen,
    )


def _makes_rows_of_heads(nodes: Iterable[Node]) -> bool:
    roles = {op(n.op).role for node in nodes for n in node.ops}
    return {"heads", "rows"} <= roles


def _tensors(values: tuple[Value, ...]) -> dict[str, Tensor]:
    return {v.name: Tensor(v.dtype, v.shape, v.layout) for v in values}


def _arg(value: Value, slots: dict[str, Slot]) -> Arg:
    if value.is_weight:
        return Arg("weight", value.name)
    if value.is_state:
        return Arg("state", value.buffer)
    if value.name in slots:
        return Arg("arena", value.name, slots[value.name].offset)
    return Arg("input", value.name)


def _pages(node: Node, bound: tuple[Value, ...], windows: dict[str, int]) -> tuple[Arg, ...]:
    """The table that finds the rows of a node's states, if it has any."""
    kinds = {kind_of(windows[v.buffer]) for v in bound if v.is_state}
    if len(kinds) > 1:
        raise FusecError(
            f"{node.kind} {node.name}: expected states that are seen equally far back, found "
            f"{' and '.join(sorted(kinds))}"
        )
    return tuple(Arg("pages", kind) for kind in kinds)


def _group(node: Node) -> str:
    groups = {op(n.op).group for n in node.ops}
    return groups.pop() if len(groups) == 1 else "forward"


def _waits(graph: Graph, slots: dict[str, Slot]) -> list[tuple[int, ...]]:
    """For each launch, the earlier ones it must follow, transitively reduced to the latest few.

    It follows whoever makes what it reads, and whoever still uses the memory it writes: readers of
    the state versions it overwrites, and makers and readers of values whose bytes it takes over. Of
    values that had the very same bytes in turn, the last has followed the others.
    """
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    waits: list[tuple[int, ...]] = []
    covered: list[set[int]] = []
    ending: dict[int, list[Slot]] = {}  # the last launch that uses a slot -> such slots
    for slot in dict.fromkeys(slots.values()):
        ending.setdefault(slot.last, []).append(slot)
    ended: dict[tuple[int, int], Slot] = {}  # bytes -> the last slot that had them
    for i, node in enumerate(graph.nodes):
        direct = {
            place[graph.producers[v.name].name] for v in node.inputs if v.name in graph.producers
        }
        for value in node.outputs:
            if value.is_state:
                direct |= {place[u.name] for u in graph.readers_before(value)}
                continue
            mine = slots[value.name]
            for other in ended.values():
                if mine.overlaps(other):
                    users = (u for name in other.names for u in graph.users.get(name, ()))
                    direct |= {other.first, *(place[u.name] for u in users)}
        ended |= {(slot.offset, slot.size): slot for slot in ending.get(i, ())}
        direct -= {i}
        reached: set[int] = set()
        kept = []
        for j in sorted(direct, reverse=True):
            if j not in reached:
                kept.append(j)
                reached |= {j} | covered[j]
        waits.append(tuple(sorted(kept)))
        covered.append(reached)
    return waits
