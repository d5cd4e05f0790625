"""The prologue: vectors that a kernel reads whole, in the form that its matvecs want.

A matvec with quantised weights reads its vector as fixed point in shared memory, one with float
weights as floats there. Every thread block makes these for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fusec.codegen import formats
from fusec.codegen.cuda.elements import Elements, Indices, element_operands
from fusec.codegen.cuda.experts import ExpertVectors, WeightedVectors
from fusec.codegen.cuda.forms import FixedPoint, Floats, KeptFixed, Pending, Squares
from fusec.codegen.cuda.quads import Quads
from fusec.codegen.cuda.scope import Scope, identifier
from fusec.codegen.cuda.shape import WARP, anchors, is_tiled
from fusec.codegen.cuda.sources import (
    Centered,
    Combined,
    Embedded,
    Gained,
    Memory,
    Normed,
    Part,
    Shared,
    Source,
    Summed,
    Totals,
)
from fusec.codegen.cuda.stages import Stage
from fusec.codegen.formats import FloatFormat, QuantFormat
from fusec.errors import FusecError
from fusec.ir.graph import Node, Value
from fusec.ir.op_matvec import heads_of, inverse_of
from fusec.ir.op_norm import has_own_weights
from fusec.ir.ops import OPS, op
from fusec.ir.region import KernelShape, Segment

PADDING = 256  # floats in shared memory are followed by zeros up to a multiple of this


class Prologue:
    """Emits a kernel's prologue and knows the sources and forms it made."""

    def __init__(self, scope: Scope, shape: KernelShape) -> None:
        self.scope, self.shape = scope, shape
        self.sources: dict[str, Source] = {}
        self.fixed: dict[str, FixedPoint] = {}
        self.floats: dict[str, str] = {}
        self.factors: dict[str, str] = {}  # value that scales a product -> the variable it is in
        self.kept_fixed: dict[Value, Source] = {}  # written to memory in fixed point -> its vector
        self.squares: dict[str, Squares] = {}  # the same -> the sum it is made of

    def source(self, value: Value) -> Source:
        """The source of an activation."""
        if value.name not in self.sources:
            return Memory(self.scope.pointers[value.name], value.shape[-1])
        return self.sources[value.name]

    def emit(self) -> None:
        """The vectors, then the forms, then a barrier.

        What comes from the launch in front is read behind the wait. Norms' weights and the position
        are not: they are loaded before it where nothing has to be computed first.
        """
        w = self.scope.w
        with w.at(Stage.FIND):
            self._positions()
            self._head()
        before = all(map(self._by_quads, self.shape.prologue))
        with w.at(Stage.LOAD if before else Stage.READ):
            if self.shape.prologue:
                w.line()
                w.line("# every block computes these for itself")
            self.vectors()
            pending = self._forms()
            forms = [
                Quads(self.scope, form, f"{k}_" if k else "") for k, form in enumerate(pending)
            ]
            for form in forms:
                form.fetch_weights()
        with w.at(Stage.READ):
            for name, pointer in self._factors_in_memory():
                w.line(f"{self.factors[name]} = load_f32({pointer})")
        for k, form in enumerate(forms):
            form.emit(first=k == 0)
        with w.at(Stage.MAKE):
            if forms:
                self._barrier(forms)
        with w.at(Stage.COMPUTE):
            for name, s in self.squares.items():
                if name not in self.late:
                    w.line(s.made_of(f"warp_sum({s.of_lane})"))
            for value in self._read_by_elements():
                self.source(value).ready(w)
            kept = [form.kept for form in pending]
            for value in self.shape.stores:
                if value.name not in kept and value not in self.kept_fixed:
                    self._store(value)

    def _positions(self) -> None:
        """The position of the token, where the prologue branches on it: before all else."""
        for node in self.shape.prologue:
            for value in node.inputs:
                if node.op == "attention_combine" and value.dtype == "i32":
                    now, pos = f"now_{identifier(node.outputs[0])}", self.scope.pointers[value.name]
                    self.scope.w.line(f"{now} = load_u32({pos})")

    def _head(self) -> None:
        """Where the block's head begins in the vector, if the kernel's product goes by heads."""
        segment = self.shape.segments[0] if self.shape.segments else None
        node = next((a for a in anchors(segment) if heads_of(a) > 1), None) if segment else None
        if node is not None:
            blocks = self.scope.geometry.grid // heads_of(node)
            quads, rest = divmod(node.inputs[1].shape[1], 4)
            if rest:
                raise FusecError(
                    f"{node.name}: expected heads of whole quads, found {4 * quads + rest} elements"
                )
            self.scope.w.line(f"head_quad = uint32((block // uint32({blocks})) * {quads})")

    def _barrier(self, forms: list[Quads]) -> None:
        """Of the block, or of each warp where it reads nothing but what it made."""
        own = all(form.of_own_warp for form in forms) and self.squares.keys() <= self.late.keys()
        self.scope.w.line("warp_barrier()" if own else "barrier()")

    def _read_by_elements(self) -> list[Value]:
        """Vectors of this prologue that a segment reads element by element."""
        nodes = [n for s in self.shape.segments for n in s.nodes]
        return [v for n in nodes for v in element_operands(n) if v.name in self.sources]

    def factor(self, matvec: Node) -> str | None:
        """The variable that scales a matvec's product, if one does."""
        inverse = inverse_of(matvec)
        return None if inverse is None else self.factors[inverse.name]

    def late_of(self, matvecs: list[Node]) -> list[Squares]:
        """`late` of those that scale these matvecs."""
        inverses = [value for node in matvecs if (value := inverse_of(node)) is not None]
        names = dict.fromkeys(value.name for value in inverses)
        return [self.late[name] for name in names if name in self.late]

    @property
    def late(self) -> dict[str, Squares]:
        """Squares that matvecs add up beside their rows: the factor is not needed before.

        In several steps it would be made several times.
        """
        if self.scope.geometry.steps > 1:
            return {}
        stored = {value.name for value in self.shape.stores}
        return {name: s for name, s in self.squares.items() if name not in stored}

    def _by_quads(self, node: Node) -> bool:
        """Whether a vector is made quad by quad as it is read: nothing has to be computed first."""
        maker = self.scope.region.producers.get(node.inputs[0].name)
        if node.op == "rms_factors" and maker is not None:
            return op(maker.op).adds_parts and self._by_quads(maker)
        inside = self.scope.region.producers
        return node.op in BY_QUADS and not any(v.name in inside for v in node.inputs)

    def _forms(self) -> list[Pending]:
        """What the matvecs want of their vectors, and the squares that norms want."""
        matvecs = list(self.shape.anchors)
        pending: list[Pending] = []
        for node in matvecs:
            x, weight = node.inputs[:2]
            source = self.source(x)
            if (inverse := inverse_of(node)) is not None:
                self.factors.setdefault(inverse.name, f"factor{len(self.factors)}")
            if heads_of(node) > 1:
                source = Part(source, "head_quad", weight.shape[1])
            if isinstance(formats.get(weight.dtype), FloatFormat):
                if x.name not in self.floats:
                    pending += self._as_floats(x, source)
            elif x.name not in self.fixed:
                users = [formats.get(m.inputs[1].dtype) for m in matvecs if m.inputs[0] == x]
                pending += self._as_fixed_point(x, source, users)
        for value, source in self.kept_fixed.items():
            form = KeptFixed(self.scope.pointers[value.name], value.dtype)
            pending.append(Pending(source, -(-source.n // 4), form))
        for squares in self.squares.values():
            source = self.sources[squares.vector]
            at = next((k for k, form in enumerate(pending) if form.source is source), None)
            if at is None:
                pending.append(Pending(source, -(-source.n // 4), squares=squares))
            else:
                pending[at] = replace(pending[at], squares=squares)
        return self._keeping(pending)

    def _keeping(self, pending: list[Pending]) -> list[Pending]:
        """Sums of parts that somebody outside needs are written where their quads are made."""
        for value in self.shape.stores:
            made = self.sources.get(value.name)
            for at, form in enumerate(pending):
                x = form.source.x if isinstance(form.source, Gained) else form.source
                if x is made and isinstance(x, (Summed, Totals)) and x.n % 4 == 0:
                    pending[at] = replace(form, kept=value.name)
                    break
        return pending

    def _factors_in_memory(self) -> list[tuple[str, str]]:
        """What scales a product and was made by another kernel, and where it lies."""
        return [
            (name, self.scope.pointers[name]) for name in self.factors if name not in self.squares
        ]

    # --- vectors ---------------------------------------------------------------------------------

    def vectors(self) -> None:
        """Find the sources of all vectors."""
        for node in self.shape.prologue:
            self._vector(node)

    def _vector(self, node: Node) -> None:
        """Find where the elements of a vector come from; emit what has to be computed first."""
        out = node.outputs[0]
        if (make := VECTORS.get(node.op)) is not None:
            self.sources[out.name] = make(self, node)
        else:
            self._elementwise(node)

    def _normed(self, node: Node) -> Source:
        return Normed(*self._norm_of(node), f"inverse{self._norms}")

    def _centered(self, node: Node) -> Source:
        given, number = self._norm_of(node), self._norms
        return Centered(
            *given,
            f"inverse{number}",
            mean=f"mean{number}",
            bias="".join(self.scope.pointers[value.name] for value in node.inputs[2:]),
            threads=self.scope.geometry.threads,
            runs=self.scope.shared("runs", 2 * Centered.runs_bytes(given[0].n)),
        )

    def _norm_of(self, node: Node) -> tuple[Memory | Shared, str, float]:
        """A norm's vector, where warps can add it up, its weights and its epsilon."""
        x = self.source(node.inputs[0])
        if not isinstance(x, (Memory, Shared)):
            x = self._materialise(node.inputs[0], x)
        return x, self.scope.pointers[node.inputs[1].name], float(str(node["eps"]))

    @property
    def _norms(self) -> int:
        """How many there are so far."""
        return sum(isinstance(source, Normed) for source in self.sources.values())

    def _embedded(self, node: Node) -> Source:
        token, table = node.inputs
        out, row = node.outputs[0], f"entry{len(self.sources)}"
        self.scope.w.line(f"{row} = load_u32({self.scope.pointers[token.name]})")
        source = Embedded(table, self.scope.pointers[table.name], row)
        return self._materialise(out, source) if out.name in self.scope.region.users else source

    def _summed(self, node: Node) -> Summed | Totals:
        parts, *residual = node.inputs
        n = node.outputs[0].shape[-1]
        before = self.source(residual[0]) if residual else None
        if parts.dtype == "i64":
            return Totals(before, self.scope.pointers[parts.name], n)
        count, in_order = parts.shape[-1] // n, node.op == "sum_experts"
        return Summed(before, self.scope.pointers[parts.name], count, n, in_order)

    def _head_normed(self, node: Node) -> Source:
        """Each warp norms a head at a time, into shared memory."""
        w, (value, weight) = self.scope.w, node.inputs
        x, out, head = self.source(value), node.outputs[0], int(node["head_dim"])
        if not isinstance(x, (Memory, Shared)):
            x = self._materialise(value, x)
        address, count = self._room(out)
        n, warps = out.shape[-1], self.scope.geometry.warps
        self._zeros(address, n, 4 * count)
        with w.block(f"for step in range({-(-n // (head * warps))}):"):
            w.line(f"head = uint32(step * {warps} + warp)")
            where = f"uint32(min_u32(head, uint32({n // head - 1})) * {head})"
            w.line(f"first = {where}")
            call = NORMS_OF_HEADS[node.op]
            if isinstance(x, Memory):
                read = f"at({x.pointer}, first)"
            else:
                call, read = f"{call}_shared", f"uint32({x.address} + first * 4)"
            gain = self.scope.pointers[weight.name]
            gain = f"at({gain}, first)" if has_own_weights(node) else gain
            given = f"{read}, {gain}, {head}"
            to, eps = f"uint32({address} + first * 4)", f"float32({node['eps']!r})"
            live = f"head < uint32({n // head})"
            w.line(f"{call}({given}, {to}, float32({1 / head!r}), {eps}, {live})")
        w.line("barrier()")
        return Shared(address, n)

    def _expert_vectors(self, node: Node) -> ExpertVectors:
        ids, v = node.inputs
        vectors, chosen = (self.scope.pointers[value.name] for value in (v, ids))
        return ExpertVectors(vectors, chosen, int(node["rows"]), ids.shape[-1])

    def _expert_sum(self, node: Node) -> WeightedVectors:
        weights, ids, v = (self.scope.pointers[value.name] for value in node.inputs)
        used = node.inputs[1].shape[-1]
        return WeightedVectors(v, ids, int(node["rows"]), used, weights)

    def _fixed(self, node: Node) -> Source:
        source = self.source(node.inputs[0])
        self.kept_fixed[node.outputs[0]] = source
        return source

    def _gained(self, node: Node) -> Gained:
        x = self.source(node.inputs[0])
        if not isinstance(x, (Memory, Shared, Summed, Totals)):
            x = self._materialise(node.inputs[0], x)
        vector, inverse = (v.name for v in node.outputs)
        quads = -(-x.n // 4)
        factor = self.factors[inverse] = f"factor{len(self.factors)}"
        partials = self.scope.shared("squares", 4 * quads)
        eps = float(str(node["eps"]))
        self.squares[inverse] = Squares(vector, partials, quads, factor, eps, x.n)
        return Gained(x, self.scope.pointers[node.inputs[1].name])

    def _combined(self, node: Node) -> Combined:
        out, pointers = node.outputs[0], self.scope.pointers
        values, pairs = (pointers[v.name] for v in node.inputs[:2])
        sinks = "".join(pointers[v.name] for v in node.weights)
        heads, name, span = int(node["heads"]), identifier(out), int(node["span"])
        last, number = f"last_{name}", f"uint32(now_{name} // uint32({span}))"
        if window := int(node["window"]):
            first = f"first_seen(uint32(now_{name} + uint32(1)), {window})"
            number = f"uint32({number} - uint32({first} // uint32({span})))"
        self.scope.w.line(f"{last} = uniform({number})")
        return Combined(values, pairs, sinks, last, heads, out.shape[-1] // heads)

    def _room(self, value: Value) -> tuple[str, int]:
        """Shared memory for a padded vector, and its quads."""
        floats = -(-value.shape[-1] // PADDING) * PADDING
        return self.scope.shared(f"{identifier(value)}_shared", 4 * floats), floats // 4

    def _materialise(self, value: Value, source: Source) -> Shared:
        """Put a source into shared memory."""
        w = self.scope.w
        address, count = self._room(value)
        source.ready(w)
        with w.block(f"for step in range({-(-count // self.scope.geometry.threads)}):"):
            w.line(f"k = uint32(step * {self.scope.geometry.threads} + thread)")
            w.line(f"a, b, c, d = {source.quad('k')}")
            inside = f"k < uint32({-(-source.n // 4)})"
            a, b, c, d = (f"select_f32({inside}, {x}, float32(0))" for x in "abcd")
            where = f"uint32({address} + k * 16)"
            w.line(f"store_shared_f32x4_if({where}, {a}, {b}, {c}, {d}, k < uint32({count}))")
        w.line("barrier()")
        made = Shared(address, source.n)
        self.sources[value.name] = made
        return made

    def _zeros(self, address: str, first: int, end: int) -> None:
        """Zeros in shared memory, from one float to another."""
        w, threads = self.scope.w, self.scope.geometry.threads
        if first == end:
            return
        with w.block(f"for step in range({-(-(end - first) // threads)}):"):
            w.line(f"k = uint32(step * {threads} + thread + {first})")
            w.line(f"store_shared_f32_if(uint32({address} + k * 4), float32(0), k < {end})")

    def _elementwise(self, node: Node) -> None:
        """An element-wise node computed whole, into shared memory."""
        w, out = self.scope.w, node.outputs[0]
        threads = self.scope.geometry.threads
        segment = Segment((node,), out.shape[-1])
        address, count = self._room(out)
        for value in node.inputs:
            if value.name in self.sources:
                self.sources[value.name].ready(w)
        self._zeros(address, 0, 4 * count)
        w.line("barrier()")
        n = out.shape[-1] // (2 if segment.rope else 1)
        with w.block(f"for step in range({-(-n // threads)}):"):
            w.line(f"k_unit = uint32(step * {threads} + thread)")
            indices = Indices(segment, "k_unit", n, "k")
            indices.emit(w)
            elements = Elements(self.scope, segment, indices, f"k_unit < uint32({n})", self.source)
            elements.fetch()
            elements.compute({}, into=address)
        w.line("barrier()")
        self.sources[out.name] = Shared(address, out.shape[-1])

    # --- forms -----------------------------------------------------------------------------------

    def _as_floats(self, x: Value, source: Source) -> list[Pending]:
        if isinstance(source, Shared):
            self.floats[x.name] = source.address
            return []
        address, count = self._room(x)
        self.floats[x.name] = address
        return [Pending(source, count, Floats(address))]

    def _as_fixed_point(
        self, x: Value, source: Source, users: list[formats.Format]
    ) -> list[Pending]:
        blocks, tiled = source.n // 32, any(map(is_tiled, self.shape.segments))
        if self.scope.geometry.paired:
            blocks //= 2
        # by rows, groups of 16 sum their digits up themselves; tiles want sums of halves for all
        quantised = [f for f in users if isinstance(f, QuantFormat) and f.has_min]
        has_min = any(tiled or f.group == 32 for f in quantised)
        digits = self.scope.shared("digits", 96 * blocks)
        scales = self.scope.shared("scales", 4 * blocks)
        sums = self.scope.shared("sums", (8 if tiled else 4) * blocks) if has_min else ""
        self.fixed[x.name] = FixedPoint(digits, scales, sums, blocks, tiled)
        return [Pending(source, 8 * blocks, self.fixed[x.name])]

    def _store(self, value: Value) -> None:
        """Write a vector that somebody outside needs, its quads spread over the grid."""
        w, geometry = self.scope.w, self.scope.geometry
        if value.name in self.factors:
            w.line("alone = (block == uint32(0)) & (thread == uint32(0))")
            where, factor = self.scope.pointers[value.name], self.factors[value.name]
            w.line(f"store_f32_if({where}, {factor}, alone)")
            return
        source = self.sources[value.name]
        n, share = source.n, geometry.threads * geometry.grid
        source.ready(w)
        store = f"store_quad({self.scope.pointers[value.name]}, {source.quad('k')}, k, {n})"
        if self._is_made_by_few(value):
            w.line(f"k = uint32(block * {geometry.threads} + thread)")
            with w.block(f"if some(k < uint32({-(-n // (4 * WARP)) * WARP})):"):
                w.line(store)
            return
        with w.block(f"for step in range({-(-n // (4 * share))}):"):
            w.line(f"k = uint32(step * {share} + block * {geometry.threads} + thread)")
            w.line(store)

    def _is_made_by_few(self, value: Value) -> bool:
        """Whether blocks that store none of a vector should not load what it is made of either."""
        maker = self.scope.region.producers[value.name]
        share = self.scope.geometry.threads * self.scope.geometry.grid
        return op(maker.op).by_elements and value.shape[-1] <= 4 * share


VECTORS: dict[str, Callable[[Prologue, Node], Source]] = {
    "fix": Prologue._fixed,
    "rms_norm": Prologue._normed,
    "rms_factors": Prologue._gained,
    "layer_norm": Prologue._centered,
    "head_norm": Prologue._head_normed,
    "head_layer_norm": Prologue._head_normed,
    "embed": Prologue._embedded,
    "attention_combine": Prologue._combined,
    "add_parts": Prologue._summed,
    "sum_parts": Prologue._summed,
    "sum_experts": Prologue._summed,
    "expert_vector": Prologue._expert_vectors,
    "expert_vector_sum": Prologue._expert_sum,
}
"""Vector op -> where its elements come from."""

BY_QUADS = frozenset(
    {"rms_norm", "rms_factors", "layer_norm", "attention_combine", "add_parts", "sum_parts",
     "sum_experts"}
)  # fmt: skip
"""Those of them whose quads are made as they are read, where they are not read from another."""

NORMS_OF_HEADS = {"head_norm": "norm_head", "head_layer_norm": "layer_norm_head"}
"""Norm of heads -> the function of one head that makes it."""

if holes := {name for name, entry in OPS.items() if entry.role == "vector"} - VECTORS.keys():
    raise TypeError(f"CUDA prologues cannot make {', '.join(sorted(holes))}")
