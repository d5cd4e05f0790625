"""A region becomes one Numba function for the CPU target.

Every kernel has the C signature `void kernel(int64* args, int32 thread, int32 threads)`. `args`
holds the tokens of this step, the address and stride of the threads' scratch memory, then one
address per parameter. All threads run every kernel; each computes the prologue for itself in its
own scratch, then takes its share of every segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from fusec.codegen.common import expression, open_region
from fusec.codegen.cpu.imports import import_lines
from fusec.codegen.kernel import KernelSource
from fusec.errors import FusecError
from fusec.ir.dtypes import dtype
from fusec.ir.graph import Graph, Node, Value
from fusec.ir.op_attention import query_of_values
from fusec.ir.op_experts import GATINGS
from fusec.ir.op_matvec import factor_of, heads_of, inverse_of
from fusec.ir.op_norm import has_own_weights
from fusec.ir.ops import op, picks_rows
from fusec.ir.pages import PAGE
from fusec.ir.plan import Kernel
from fusec.ir.region import KernelShape, Segment, heads_apart, parameters
from fusec.ir.tables import table_of, tables_of
from fusec.writer import Writer

HEADER_ARGS = 3  # tokens, scratch address, scratch stride
ATTENDED = 64  # positions of a chunk of attention: a page has whole ones
CHUNK_BYTES = 4 * ATTENDED  # room for its scores
LINE = 64  # bytes of a cache line: scratch vectors start on one

POINTER = {"f32": "ptr_f32", "f16": "ptr_u16", "i32": "ptr_i32"}


def emit(kernel: Kernel) -> KernelSource:
    """Source of the kernel. Raises FusecError if its region cannot be one kernel."""
    return _Emitter(*open_region(kernel)).emit()


class _Emitter:
    """One emission: the writer, where each vector lies, and the scratch laid out so far."""

    def __init__(self, region: Graph, shape: KernelShape) -> None:
        self.region, self.shape, self.w = region, shape, Writer()
        self.vectors: dict[str, str] = {}  # value name -> pointer variable of its memory
        self.tables: dict[str, str] = {}
        self.scratch = 0
        self.outputs = {v.name for v in region.outputs}

    def emit(self) -> KernelSource:
        if self.shape.parts is not None:
            _refuse_unless(False, self.shape.parts)
        if reason := heads_apart(self.shape, 0):
            raise FusecError(f"kernel {self.region.name}: {reason}")
        w = self.w
        body = Writer()
        self.w = body
        with body.block("def kernel(args, thread, threads):"):
            self.parameters()
            self.prologue()
            for segment in self.shape.segments:
                body.line()
                {"heads": self.heads, "scalar": self.scalar}.get(segment.role, self.spread)(segment)
        text = str(self.region).rstrip()
        w.line(
            f'"""{text}\n\nEmitted by fusec for the CPU target. [1, n] stands for [tokens, n].\n"""'
        )
        w.line()
        w.line("from numba import cfunc, float32, int32, int64, types")
        w.line()
        for line in import_lines(body.text):
            w.line(line)
        w.line()
        w.line()
        w.line("@cfunc(types.void(types.CPointer(int64), int32, int32))")
        return KernelSource(self.region.name, w.text + body.text, self.scratch)

    # --- where things lie ------------------------------------------------------------------------

    def parameters(self) -> None:
        self.w.line("tokens = args[0]")
        self.w.line("scratch = args[1] + thread * args[2]")
        place = HEADER_ARGS
        for value in parameters(self.region):
            name = _identifier(value)
            pointer = POINTER.get(value.dtype, "ptr_u8") if self.is_vector(value) else "ptr_u8"
            self.w.line(f"{name} = {pointer}(args[{place}])", f"{value.name}: {value.type}")
            self.vectors[value.name] = name
            if value.is_state:
                self.vectors[value.name.rstrip("'") + "'"] = name
            place += 1
        for table in tables_of(self.region.nodes):
            self.tables[table] = f"table{len(self.tables)}"
            self.w.line(f"{self.tables[table]} = ptr_f32(args[{place}])", table)
            place += 1
        if any(value.is_state for value in parameters(self.region)):
            self.w.line(f"pages = ptr_i32(args[{place}])", "the first row of each page")

    @staticmethod
    def is_vector(value: Value) -> bool:
        """Whether a parameter is read element by element (and not as a matrix of blocks)."""
        return not value.is_weight or len(value.shape) == 1

    def room(self, nbytes: int) -> str:
        """Address of new scratch memory of `nbytes` a token."""
        at = self.scratch
        self.scratch += -(-nbytes // LINE) * LINE
        return f"scratch + tokens * {at}" if at else "scratch"

    def at(self, value: Value, index: str) -> str:
        """The element of a vector in memory, for token t."""
        if value.is_weight:
            return f"{self.vectors[value.name]}[{index}]"
        return f"{self.vectors[value.name]}[t * {value.shape[-1]} + {index}]"

    def row(self, value: Value) -> str:
        """Pointer to token t's row of a vector in memory."""
        return f"advance({self.vectors[value.name]}, t * {value.shape[-1]})"

    # --- the prologue ----------------------------------------------------------------------------

    def prologue(self) -> None:
        if self.shape.prologue:
            self.w.line()
            self.w.line("# every thread computes these for itself")
        for node in self.shape.prologue:
            direct = all(v.name in self.outputs and self.only_stored(v) for v in node.outputs)
            for out in () if direct else node.outputs:
                self.vectors[out.name] = _identifier(out)
                self.w.line(f"{_identifier(out)} = ptr_f32({self.room(4 * out.shape[-1])})")
            with self.tokens("thread, tokens, threads" if direct else "tokens"):
                self.whole(node)
            for out in () if direct else node.outputs:
                if out.name in self.outputs:
                    self.store(out)

    def only_stored(self, value: Value) -> bool:
        """Whether nobody in the kernel reads the vector: then tokens are shared out instead."""
        return value.name not in self.region.users

    def whole(self, node: Node) -> None:
        """All elements of one token's vector."""
        if (make := VECTORS.get(node.op)) is not None:
            make(self, node)
            return
        _refuse_unless(op(node.op).role != "vector", node)
        n = node.outputs[0].shape[-1]
        segment = Segment((node,), n)
        with self.indices(segment, "0", str(n // (2 if segment.rope else 1))):
            self.elements(segment, in_memory=True)

    def norm(self, node: Node) -> None:
        """The norm of a whole vector."""
        out, (x, *weights) = node.outputs[0], node.inputs
        gain, *bias = (self.vectors[weight.name] for weight in weights)
        n, eps = out.shape[-1], f"float32({node['eps']!r})"
        self.w.line(f"{NORMS[node.op]}({self.row(out)}, {self.row(x)}, {gain}, {n}, {eps})")
        for shift in bias:
            self.w.line(f"add_row({self.row(out)}, {shift}, {n})")

    def head_norm(self, node: Node) -> None:
        """The norm of each head."""
        out, (x, weight), head = node.outputs[0], node.inputs, int(node["head_dim"])
        first, eps = f"head * {head}", f"float32({node['eps']!r})"
        with self.w.block(f"for head in range({out.shape[-1] // head}):"):
            rows = ", ".join(f"advance({self.row(v)}, {first})" for v in (out, x))
            gain = self.vectors[weight.name]
            gain = f"advance({gain}, {first})" if has_own_weights(node) else gain
            self.w.line(f"{NORMS[node.op]}({rows}, {gain}, {head}, {eps})")

    def embed(self, node: Node) -> None:
        """A row of the table."""
        out, (token, table) = node.outputs[0], node.inputs
        n = out.shape[-1]
        stride = dtype(table.dtype).nbytes((n,))
        entry = f"advance({self.vectors[table.name]}, {self.vectors[token.name]}[t] * {stride})"
        self.w.line(f"decode_row_{table.dtype}({entry}, {self.row(out)}, 0, {n})")

    def expert_vector(self, node: Node) -> None:
        """The chosen experts' vectors, or their sum by weights."""
        *given, b = node.inputs
        rows = ", ".join(self.row(v) for v in (*node.outputs, *given))
        used = node.inputs[0].shape[-1]
        self.w.line(f"{node.op}({rows}, {self.vectors[b.name]}, {used}, {int(node['rows'])})")

    def store(self, value: Value) -> None:
        """Write this thread's part of a prologue vector out."""
        target = _identifier(value) + "_out"
        place = HEADER_ARGS + [v.name for v in parameters(self.region)].index(value.name)
        self.w.line(f"{target} = ptr_f32(args[{place}])")
        self.w.line(f"low, high = share({value.shape[-1]}, thread, threads)")
        with self.tokens(), self.w.block("for i in range(low, high):"):
            self.w.line(f"{target}[t * {value.shape[-1]} + i] = {self.at(value, 'i')}")

    # --- the segments ----------------------------------------------------------------------------

    @contextmanager
    def tokens(self, span: str = "tokens") -> Iterator[None]:
        with self.w.block(f"for t in range({span}):"):
            yield

    @contextmanager
    def indices(self, segment: Segment, low: str, high: str) -> Iterator[None]:
        """Loop over elements i, or over pairs (i0, i1) where the segment rotates."""
        rope = segment.rope
        if rope is None:
            with self.w.block(f"for i in range({low}, {high}):"):
                yield
            return
        head, dims = int(rope["head_dim"]), int(rope["dims"])
        with self.w.block(f"for p in range({low}, {high}):"):
            self.w.line(f"j = p % {head // 2}", "pair within the head")
            if rope["pairing"] == "adjacent":
                self.w.line("i0, i1 = 2 * p, 2 * p + 1")
            else:  # halves: behind the rotary dims, neighbours pass through
                self.w.line(f"first = p - j if j < {dims // 2} else p - j + {dims // 2}")
                self.w.line(f"i0 = 2 * (p - j) + (j if j < {dims // 2} else 2 * j)")
                self.w.line(f"i1 = i0 + ({dims // 2} if j < {dims // 2} else 1)")
            yield

    def spread(self, segment: Segment) -> None:
        """Rows of matvecs with the element-wise work around them, or element-wise work alone."""
        units = segment.size // 2 if segment.rope else segment.size
        anchors = [n for n in segment.nodes if op(n.op).role == "rows"]
        names = ", ".join(n.name for n in segment.nodes)
        self.w.line(f"low, high = share({units}, thread, threads)", names)
        if not anchors:
            with self.tokens(), self.indices(segment, "low", "high"):
                self.elements(segment)
            return
        indices = ("i0", "i1") if segment.rope else ("i",)
        room = {(a.name, i): self.room(4) for a in anchors for i in indices}
        for (name, i), where in room.items():
            self.w.line(f"{_dots(name, i)} = ptr_f32({where})")
        with self.indices(segment, "low", "high"):
            for anchor in anchors:
                for i in indices:
                    self.w.line(self.dots(anchor, i))
            with self.tokens():
                self.elements(segment)

    def dots(self, node: Node, i: str) -> str:
        """Row i of a matrix times every token's vector."""
        x, weight = node.inputs[:2]
        n, vector, out = weight.shape[-1], self.vectors[x.name], _dots(node.name, i)
        stride = dtype(weight.dtype).nbytes((n,))
        if not picks_rows(node):
            row = f"advance({self.vectors[weight.name]}, {i} * {stride})"
            if (heads := heads_of(node)) > 1:
                vector = f"advance({vector}, {i} // {weight.shape[0] // heads} * {n})"
            return f"dots_{weight.dtype}({row}, {vector}, {n}, {x.shape[-1]}, tokens, {out})"
        ids, rows = node.inputs[2], int(node["rows"])
        stack = f"{self.vectors[weight.name]}, {stride}, {rows}, {i}"
        chosen = f"{self.vectors[ids.name]}, {ids.shape[-1]}"
        return f"{node.op}_{weight.dtype}({stack}, {chosen}, {vector}, {n}, tokens, {out})"

    def elements(self, segment: Segment, in_memory: bool = False) -> None:
        """Element-wise nodes at index i (or the pair i0, i1) of token t.

        `in_memory`: results go to their vector, for a prologue; otherwise to variables, and to
        memory only if somebody outside needs them.
        """
        here: set[str] = set()
        indices = ("i0", "i1") if segment.rope else ("i",)

        def operand(value: Value, i: str) -> str:
            if value.name in here:
                return _scalar(value.name, i)
            each = segment.size // value.shape[-1]
            return self.at(value, f"{i} // {each}" if each > 1 else i)

        for node in segment.nodes:
            role = op(node.op).role
            _refuse_unless(role != "fold", node)
            if role == "pair":
                self.rotate(node, [operand(node.inputs[0], i) for i in indices])
            for i in indices:
                name = _scalar(node.name, i)
                if role == "rows":
                    factor, inverse = factor_of(node), inverse_of(node)
                    scale = f" * {self.vectors[factor.name]}[0]" if factor is not None else ""
                    scale += f" * {self.at(inverse, '0')}" if inverse is not None else ""
                    self.w.line(f"{name} = {_dots(node.name, i)}[t]{scale}")
                elif role == "store":
                    self.append(node, operand(node.inputs[1], i), i)
                elif role == "element":
                    operands = [
                        self.looked_up(node, v) if v.dtype == "i32" else operand(v, i)
                        for v in node.inputs
                    ]
                    self.w.line(f"{name} = {expression(node, operands)}")
                if role != "store" and (in_memory or node.name in self.outputs):
                    self.w.line(f"{self.at(node.outputs[0], i)} = {name}")
            here.add(node.name)

    def looked_up(self, node: Node, pos: Value) -> str:
        """What a node's table has at token t's position."""
        return f"{self.tables[table_of(node)]}[{self.vectors[pos.name]}[t]]"

    def rotate(self, node: Node, pair: list[str]) -> None:
        """Both elements of one rotated pair; beyond the rotary dims they pass through."""
        half, head = int(node["dims"]) // 2, int(node["head_dim"])
        table = self.tables[table_of(node)]
        pos = self.vectors[node.inputs[1].name]
        first, second = (_scalar(node.name, i) for i in ("i0", "i1"))
        self.w.line(f"a, b = {pair[0]}, {pair[1]}")
        rotary: AbstractContextManager[None] = nullcontext()
        if 2 * half < head:
            self.w.line(f"{first}, {second} = a, b")
            rotary = self.w.block(f"if j < {half}:")
        with rotary:
            self.w.line(f"angle = ({pos}[t] * {half} + j) * 2")
            self.w.line(f"cos, sin = {table}[angle], {table}[angle + 1]")
            self.w.line(f"{first} = a * cos - b * sin")
            self.w.line(f"{second} = a * sin + b * cos")

    def append(self, node: Node, element: str, i: str) -> None:
        """Write element i of a key or value at token t's position."""
        state, x, pos = node.inputs
        value = f"f32_to_f16_bits({element})" if state.dtype == "f16" else element
        position = f"{self.vectors[pos.name]}[t]"
        row = f"(pages[{position} // {PAGE}] + ({position} & {PAGE - 1}))"
        at = f"{row} * {x.shape[-1]} + {i}"
        self.w.line(f"{self.vectors[state.name]}[{at}] = {value}")

    def heads(self, segment: Segment) -> None:
        """Attention, one head of one token at a time."""
        (node,) = segment.nodes
        _refuse_unless(node.get("spans", 0) == 0, node)
        q, k, v, pos = node.inputs[:4]
        heads, kv_heads, of_values = (
            int(node["heads"]),
            int(node["kv_heads"]),
            query_of_values(node),
        )
        window = int(node["window"])
        self.w.line(f"scores = ptr_f32({self.room(CHUNK_BYTES)})")
        kind, more = "attention", "scores"
        if of_values is not None:
            kind, more = "latent_attention", "more"
            self.w.line(f"more = ptr_f32({self.room(CHUNK_BYTES)})")
        self.w.line(f"low, high = share(tokens * {heads}, thread, threads)", node.name)
        with self.w.block("for unit in range(low, high):"):
            self.w.line(f"t, head = unit // {heads}, unit % {heads}")
            self.w.line(f"kv = head // {heads // kv_heads}")
            self.w.line(f"end = int64({self.vectors[pos.name]}[t]) + 1")
            sink = "".join(f"{self.vectors[v.name]}[head]" for v in node.weights)
            with self.w.block(f"{kind}_{k.dtype}("):
                for vector in (node.outputs[0], q):
                    self.w.line(f"{self.of_head(vector, heads)},")
                for cache in (k, v):
                    self.w.line(f"advance({self.vectors[cache.name]}, kv * {cache.shape[2]}),")
                self.w.line(f"{kv_heads * k.shape[2]}, {k.shape[2]},")
                self.w.line(f"max(end - {window}, 0), end," if window else "int64(0), end,")
                self.w.line(f"pages, {PAGE},")
                self.w.line(f"float32({node['scale']!r}), float32({node['cap']!r}),")
                self.w.line(f"{bool(sink)}, {sink or 'float32(0)'},")
                self.w.line("scores,")
                self.w.line(f"{self.of_head(of_values or q, heads)},")
                self.w.line(f"{kv_heads * v.shape[2]}, {v.shape[2]}, {more},")
            self.w.line(")")

    def of_head(self, vector: Value, heads: int) -> str:
        """Pointer to a head of token t's vector."""
        size = vector.shape[-1]
        return f"advance({self.vectors[vector.name]}, t * {size} + head * {size // heads})"

    def scalar(self, segment: Segment) -> None:
        """A reduction of each token's row; tokens are shared out."""
        (node,) = segment.nodes
        make = SCALARS.get(node.op)
        _refuse_unless(make is not None, node)
        assert make is not None
        make(self, node)

    def argmax(self, node: Node) -> None:
        """The place of the largest element."""
        (x,) = node.inputs
        with self.tokens("thread, tokens, threads"):
            out = self.vectors[node.name]
            self.w.line(f"{out}[t] = argmax({self.row(x)}, {x.shape[-1]})")

    def route(self, node: Node) -> None:
        """The chosen experts and their weights; scores and probabilities lie in scratch."""
        logits, *bias = node.inputs
        n = logits.shape[-1]
        self.w.line(f"probabilities = ptr_f32({self.room(4 * 3 * n)})")
        pointers = [self.row(v) for v in (logits, *node.outputs)]
        pointers += [self.vectors[bias[0].name] if bias else "probabilities", "probabilities"]
        gating = GATINGS.index(str(node["gating"]))
        sizes = [n, node["used"], node["groups"], node["groups_used"]]
        flags = [gating, int(bool(bias)), node["normalised"], f"float32({node['scale']!r})"]
        given = ", ".join(map(str, (*pointers, *sizes, *flags)))
        with self.tokens("thread, tokens, threads"):
            self.w.line(f"route({given})")


VECTORS: dict[str, Callable[[_Emitter, Node], None]] = {
    "rms_norm": _Emitter.norm,
    "layer_norm": _Emitter.norm,
    "head_norm": _Emitter.head_norm,
    "head_layer_norm": _Emitter.head_norm,
    "embed": _Emitter.embed,
    "expert_vector": _Emitter.expert_vector,
    "expert_vector_sum": _Emitter.expert_vector,
}
"""Vector ops that the CPU target has. The others are made by passes that do not run for it."""

NORMS = {
    "rms_norm": "rms_norm",
    "head_norm": "rms_norm",
    "layer_norm": "layer_norm",
    "head_layer_norm": "layer_norm",
}
"""Norm -> the function of a row that makes it."""

SCALARS: dict[str, Callable[[_Emitter, Node], None]] = {
    "argmax": _Emitter.argmax,
    "route": _Emitter.route,
}
"""The same of reductions."""


def _refuse_unless(known: bool, node: Node) -> None:
    if not known:
        raise FusecError(f"{node.op} making {node.name}: the CPU target has no kernel for it")


def _identifier(value: Value) -> str:
    return {"%": "x", "$": "", "@": ""}[value.name[0]] + value.name[1:].rstrip("'")


def _scalar(name: str, i: str) -> str:
    return f"v{name[1:]}{i[1:] and '_' + i[1:]}"


def _dots(name: str, i: str) -> str:
    return f"dots{name[1:]}{i[1:] and '_' + i[1:]}"
