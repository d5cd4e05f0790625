"""Why nodes must not be merged (illegal), and why it does not pay (slower): reasons, or None."""

from __future__ import annotations

from collections.abc import Iterable

from fusec.ir.graph import Graph, Node
from fusec.ir.op_matvec import is_fixed
from fusec.ir.ops import op
from fusec.ir.region import Own, analyse, heads_apart, many_rows_apart
from fusec.ir.region_heads import NotOneKernel
from fusec.ir.remember import remembered
from fusec.ir.target import Target, layouts_apart
from fusec.passes.canonical import canonical
from fusec.passes.cost import ERROR, launch_us
from fusec.passes.merge import fuse

KNOWN = 4096  # regions and targets whose answer is kept


def why_illegal(
    graph: Graph, match: tuple[Node, ...], kept: tuple[Node, ...], target: Target
) -> str | None:
    """The reason these nodes cannot be one kernel, or None if they can.

    `kept`: those of them whose values may have other readers.
    """
    reason = (
        _different_tokens(match)
        or _second_user(graph, [n for n in match if n.name not in {k.name for k in kept}], match)
        or _cycle(graph, match)
        or _unsupported_format(match, target)
        or _heads_of_many_rows(match, target)
        or _products_of_several_rows(match)
    )
    if reason:
        return reason
    merged = fuse(graph, match, "region")
    # layers differ in names alone: a region that may be is looked at once
    own = target.own(graph.tokens)
    if _is_one_kernel(canonical(merged), target, own):
        return None
    return _not_one_kernel(merged.region, target, own)


def why_slower(graph: Graph, match: tuple[Node, ...], target: Target) -> str | None:
    """A prologue made anew in every block may cost more than the launch that it saves."""
    if target.gpu is None:
        return None
    apart = sum(_predicted_us(canonical(node), target) for node in match)
    merged = _predicted_us(canonical(fuse(graph, match, "region")), target)
    if merged <= (1 + ERROR) * apart:
        return None
    return (
        f"slower: {merged:.2f} us merged, {apart:.2f} us apart are predicted on {target.gpu.name}"
    )


def _different_tokens(match: tuple[Node, ...]) -> str | None:
    tokens = {v.shape[0] for n in match for v in n.outputs if not v.is_state}
    if len(tokens) > 1:
        return f"a different T: {', '.join(map(str, sorted(tokens)))} tokens a step"
    return None


def _second_user(graph: Graph, nodes: Iterable[Node], match: tuple[Node, ...]) -> str | None:
    names = {n.name for n in match}
    for node in nodes:
        for value in node.outputs:
            users = graph.users.get(value.name, ())
            if value.is_state or not any(u.name in names for u in users):
                continue
            others = [u.name for u in users if u.name not in names]
            if others:
                return f"a second user: {value.name} is also read by {others[0]}"
            if value.name in graph.needed:
                return f"a second user: {value.name} is an output of the graph"
    return None


def _cycle(graph: Graph, match: tuple[Node, ...]) -> str | None:
    """A path that leaves the match and comes back would make the merged node wait for itself."""
    names = {n.name for n in match}
    last = max(graph.place[n] for n in names)
    stack = [(u, u) for n in match for v in n.outputs for u in graph.users.get(v.name, ())]
    seen = set()
    while stack:
        node, left = stack.pop()
        if node.name in names:
            if left.name not in names:
                return f"a cycle through an outside path: {left.name} leads back to {node.name}"
            continue
        if node.name in seen or graph.place[node.name] > last:
            continue
        seen.add(node.name)
        stack += [(u, left) for v in node.outputs for u in graph.users.get(v.name, ())]
    return None


def _unsupported_format(match: tuple[Node, ...], target: Target) -> str | None:
    for node in match:
        for weight in node.weights:
            if weight.dtype not in target.formats:
                return f"an unsupported quant type: {weight.name} is {weight.dtype}"
    return None


def _heads_of_many_rows(match: tuple[Node, ...], target: Target) -> str | None:
    """Blocks that attend for many rows of a step read what was made once for all of them."""
    node = _attention(match)
    if node is None or not target.has_many(tokens := node.inputs[0].shape[0]):
        return None
    return f"many rows: {node.op} {node.name} reads queries and keys of {tokens} rows"


def _attention(match: tuple[Node, ...]) -> Node | None:
    return next((n for merged in match for n in merged.ops if op(n.op).role == "heads"), None)


def _products_of_several_rows(match: tuple[Node, ...]) -> str | None:
    """Blocks that attend make products for one row of the step: of several, they share weights."""
    heads = _attention(match)
    if heads is None or not any(op(n.op).role == "rows" for merged in match for n in merged.ops):
        return None
    tokens = heads.inputs[0].shape[0]
    return f"several rows: {heads.op} {heads.name} has {tokens} rows" if tokens > 1 else None


@remembered(KNOWN)
def _is_one_kernel(region: Graph, target: Target, own: Own) -> bool:
    return _not_one_kernel(region, target, own) is None


@remembered(KNOWN)
def _predicted_us(region: Graph, target: Target) -> float:
    assert target.gpu is not None
    return launch_us(region, target.gpu).total


def _not_one_kernel(region: Graph, target: Target, own: Own) -> str | None:
    try:
        shape = analyse(region)
    except NotOneKernel as reason:
        return f"not one kernel: {reason}"
    if apart := layouts_apart(shape):
        return f"not one kernel: {apart}"
    if tiled := many_rows_apart(shape, own):
        return f"not one kernel: {tiled}"
    if apart := heads_apart(shape, target.makes_heads) or target.rows_of_heads_apart(shape):
        return f"not one kernel: {apart}"
    needed = shape.prologue_bytes
    products = [n for n in region.nodes if op(n.op).role == "rows" and not is_fixed(n)]
    if products and needed > target.block_bytes:
        return (
            f"shared memory too small: the prologue takes {needed:,} bytes, "
            f"a block on {target.name} has {target.block_bytes:,}"
        )
    return None
