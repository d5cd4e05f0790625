"""Memory of activations: offsets in one arena, used again when a value's last reader is done.

What holds indices holds nothing else. So whoever runs a plan without some of its launches, to see
what these take, finds indices of an earlier step there, and no kernel leaves its memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from fusec.ir.graph import Graph, Value
from fusec.ir.ops import in_place

ALIGNMENT = 256  # bytes: what cudaMalloc guarantees and every wide load needs


@dataclass(frozen=True)
class Slot:
    """A value's bytes, [offset, offset + size) of the arena, and launches, first..last.

    `later`: names of what is made of it in place.
    """

    value: Value
    offset: int
    size: int
    first: int
    last: int
    later: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of all values that have these bytes."""
        return (self.value.name, *self.later)

    def overlaps(self, other: Slot) -> bool:
        """Whether both occupy the same bytes, at whatever time."""
        return self.offset < other.offset + other.size and other.offset < self.offset + self.size


def live_ranges(graph: Graph) -> dict[str, tuple[Value, int, int]]:
    """Activation name -> value, index of the launch that makes it, of the last that reads it.

    What is made of it in place has its memory: not among the names, and until it is read for the
    last time, the value lives. Graph outputs live on past the last launch.
    """
    place = {node.name: i for i, node in enumerate(graph.nodes)}
    ranges: dict[str, tuple[Value, int, int]] = {}
    placed = in_place(graph.walk())
    for i, node in enumerate(graph.nodes):
        for value in node.outputs:
            if value.is_state:
                continue
            last = max((place[u.name] for u in graph.users.get(value.name, ())), default=i)
            if value.name in graph.needed:
                last = len(graph.nodes)
            if value.name in placed:
                made, first, _ = ranges[placed[value.name]]
                ranges[made.name] = (made, first, last)
            else:
                ranges[value.name] = (value, i, last)
    return ranges


def plan_memory(graph: Graph) -> dict[str, Slot]:
    """Assign offsets: largest value first, at the lowest offset free over its whole life.

    Greedy by size, Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net
    Inference". A launch's inputs and outputs are live together, so no kernel works in place, but
    those that say so: what they make has the slot of what they make it of.
    """
    slots: dict[str, Slot] = {}
    ranges = sorted(live_ranges(graph).values(), key=lambda r: (-r[0].nbytes, r[1]))
    for value, first, last in ranges:
        size = -(-value.nbytes // ALIGNMENT) * ALIGNMENT
        rivals = (
            s
            for s in slots.values()
            if (s.first <= last and first <= s.last) or "i32" in (value.dtype, s.value.dtype)
        )
        offset = 0
        for rival in sorted(rivals, key=lambda s: s.offset):
            if rival.offset - offset >= size:
                break
            offset = max(offset, rival.offset + rival.size)
        slots[value.name] = Slot(value, offset, size, first, last)
    for name, source in in_place(graph.walk()).items():
        slots[source] = slots[name] = replace(slots[source], later=(name,))
    return slots


def arena_bytes(slots: dict[str, Slot]) -> int:
    """Bytes of the arena that holds all slots."""
    return max((s.offset + s.size for s in slots.values()), default=0)
