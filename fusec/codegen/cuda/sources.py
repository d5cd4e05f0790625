"""Where the quads and elements of a vector come from.

A source gives a quad (four floats) or an element at an index that each thread chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fusec.codegen import formats
from fusec.codegen.formats import FloatFormat, QuantFormat
from fusec.errors import FusecError
from fusec.ir.graph import Value
from fusec.ir.target import TILES
from fusec.writer import Writer


class Source(ABC):
    """A vector of `n` floats."""

    n: int

    @abstractmethod
    def quad(self, i: str) -> str:
        """Expression of quad `i`."""

    @abstractmethod
    def element(self, i: str) -> str:
        """Expression of element `i`."""

    def fetch_weights(self, w: Writer, i: str, tag: str) -> None:  # noqa: B027  few have some
        """Emit the loads for quad `i` that need no activations."""

    def fetch(self, w: Writer, i: str, tag: str) -> str:
        """Emit the other loads of quad `i`; returns the expression that makes the quad of them."""
        w.line(f"quad{tag} = {self.quad(i)}")
        return f"quad{tag}"

    def finish(self, w: Writer, i: str, tag: str) -> None:  # noqa: B027  few have something
        """Emit what makes quad `i` of what `fetch` has loaded, in front of its expression."""

    def ready(self, w: Writer) -> None:  # noqa: B027  most sources need nothing
        """Emit what must come before the first use of an expression."""


@dataclass
class Memory(Source):
    """In global memory."""

    pointer: str
    n: int

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        return f"quad({self.pointer}, {i}, {self.n})"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        return f"load_f32(at({self.pointer}, {i}))"


@dataclass
class Shared(Source):
    """In shared memory, padded with zeros."""

    address: str
    n: int

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        return f"quad_shared({self.address}, {i}, {self.n})"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        return f"load_shared_f32(uint32({self.address} + {i} * 4))"


@dataclass
class Summed(Source):
    """Parts of a vector, one a head, that lie one after the other in memory, beside a residual.

    The residual comes first, if there is one. The parts are added exactly (see `lib.exact`), or, of
    chosen experts, as a balanced `tree` in which one without a partner goes up as it is.
    """

    residual: Source | None
    parts: str
    heads: int
    n: int
    in_order: bool = False

    def _part(self, h: int) -> str:
        return f"at({self.parts}, uint32({h * self.n}))"

    def _sum(self, parts: list[str]) -> str:
        """Expression of the sum of quads."""
        if self.in_order:
            return tree(parts, "plus({}, {})")
        words = [f"words_of_four({part})" for part in parts]
        return f"nearest_four({tree(words, 'plus_words_of_four({}, {})')})"

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        parts = [f"quad({self._part(h)}, {i}, {self.n})" for h in range(self.heads)]
        total = self._sum(parts)
        return total if self.residual is None else f"plus({self.residual.quad(i)}, {total})"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        parts = [f"load_f32(at({self._part(h)}, {i}))" for h in range(self.heads)]
        total = tree(parts)
        if not self.in_order:
            words = [f"words_of({part})" for part in parts]
            total = f"nearest(whole({tree(words, 'plus_words({}, {})')}))"
        return total if self.residual is None else f"({self.residual.element(i)} + {total})"

    def ready(self, w: Writer) -> None:
        """See `Source.ready`."""
        if self.residual is not None:
            self.residual.ready(w)

    def fetch(self, w: Writer, i: str, tag: str) -> str:
        """See `Source.fetch`: the loads of all parts are on their way before the first is used."""
        if not self._loads_first:
            return super().fetch(w, i, tag)
        w.line(f"where{tag} = uint32(min_u32({i}, uint32({self.n // 4 - 1})) * 4)")
        w.line(f"first{tag} = at({self.parts}, where{tag})")
        for h, part in enumerate(self._loaded(tag)):
            w.line(f"{part} = load_f32x4(at(first{tag}, uint32({h * self.n})))")
        if isinstance(self.residual, Memory):
            w.line(f"before{tag} = load_f32x4(at({self.residual.pointer}, where{tag}))")
        return f"quad{tag}"

    def finish(self, w: Writer, i: str, tag: str) -> None:
        """See `Source.finish`: threads that have no quad need not add parts up."""
        if not self._loads_first:
            return
        total = self._sum(self._loaded(tag))
        if self.residual is not None:
            total = f"plus(before{tag}, {total})"
        w.line(f"quad{tag} = only_quad({i} < uint32({self.n // 4}), {total})")

    @property
    def _loads_first(self) -> bool:
        return not self.n % 4 and isinstance(self.residual, Memory | None)

    def _loaded(self, tag: str) -> list[str]:
        """Variables of a quad of every part."""
        return [f"part{tag}_{h}" for h in range(self.heads)]


@dataclass
class Totals(Source):
    """Parts of a vector that have been added up in memory, beside a residual if there is one."""

    residual: Source | None
    sums: str
    n: int

    def __post_init__(self) -> None:
        if self.n % 4:
            raise FusecError(f"{self.sums}: expected sums of whole quads, found {self.n}")

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        total = f"quad_of_sums(load_sums({self.sums}, {self._inside(i)}))"
        if self.residual is not None:
            total = f"plus({self.residual.quad(i)}, {total})"
        return f"only_quad({i} < uint32({self.n // 4}), {total})"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        total = f"sum_at({self.sums}, {i})"
        return total if self.residual is None else f"({self.residual.element(i)} + {total})"

    def ready(self, w: Writer) -> None:
        """See `Source.ready`."""
        if self.residual is not None:
            self.residual.ready(w)

    def fetch(self, w: Writer, i: str, tag: str) -> str:
        """See `Source.fetch`."""
        if not isinstance(self.residual, Memory | None):
            return super().fetch(w, i, tag)
        w.line(f"where{tag} = {self._inside(i)}")
        w.line(f"added{tag} = load_sums({self.sums}, where{tag})")
        if self.residual is not None:
            place = f"at({self.residual.pointer}, uint32(where{tag} * 4))"
            w.line(f"before{tag} = load_f32x4({place})")
        return f"quad{tag}"

    def finish(self, w: Writer, i: str, tag: str) -> None:
        """See `Source.finish`."""
        if isinstance(self.residual, Memory | None):
            total = f"quad_of_sums(added{tag})"
            total = total if self.residual is None else f"plus(before{tag}, {total})"
            w.line(f"quad{tag} = only_quad({i} < uint32({self.n // 4}), {total})")

    def _inside(self, i: str) -> str:
        """Which quad is loaded for number `i`: behind the end, the last one."""
        return f"min_u32({i}, uint32({self.n // 4 - 1}))"


def tree(terms: list[str], plus: str = "({} + {})") -> str:
    """The expression that adds neighbours, then neighbours of these sums, and so on."""
    while len(terms) > 1:
        pairs = [plus.format(*terms[k : k + 2]) for k in range(0, len(terms) - 1, 2)]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]


@dataclass
class Gained(Source):
    """A norm's first factor: x * weight of a source whose quads are cheap to come by."""

    x: Memory | Shared | Summed | Totals
    weight: str

    def __post_init__(self) -> None:
        self.n = self.x.n

    def made_of(self, x: str, gain: str) -> str:
        """Expression of a quad, from those of x and of the weights."""
        return f"gained({x}, {gain})"

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        return self.made_of(self.x.quad(i), f"quad_weight({self.weight}, {i}, {self.n})")

    def element(self, i: str) -> str:
        """See `Source.element`."""
        return f"{self.x.element(i)} * load_weight_f32(at({self.weight}, {i}))"

    def fetch_weights(self, w: Writer, i: str, tag: str) -> None:
        """See `Source.fetch_weights`."""
        w.line(f"gain{tag} = quad_weight({self.weight}, {i}, {self.n})")

    def fetch(self, w: Writer, i: str, tag: str) -> str:
        """See `Source.fetch`; the quad of x is left in `quad{tag}`."""
        return self.made_of(self.x.fetch(w, i, tag), f"gain{tag}")

    def finish(self, w: Writer, i: str, tag: str) -> None:
        """See `Source.finish`."""
        self.x.finish(w, i, tag)


@dataclass
class Normed(Gained):
    """RMS norm of a source in memory: x * inverse * weight, the inverse made once by every warp.

    The loads of a quad do not wait for the norm.
    """

    eps: float
    inverse: str
    is_ready: bool = False

    def made_of(self, x: str, gain: str) -> str:
        """See `Gained.made_of`."""
        return f"normed({x}, {self.inverse}, {gain})"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        return f"{self.x.element(i)} * {self.inverse} * load_weight_f32(at({self.weight}, {i}))"

    def ready(self, w: Writer) -> None:
        """See `Source.ready`."""
        if not self.is_ready:
            where, address = self._place()
            squares = f"sum_squares{where}({address}, {self.n})"
            w.line(self._inverse_of(squares))
        self.is_ready = True

    def _place(self) -> tuple[str, str]:
        """How functions of what x lies in are called, and where it lies there."""
        assert not isinstance(self.x, (Summed, Totals))
        if isinstance(self.x, Shared):
            return "_shared", self.x.address
        return "", self.x.pointer

    def _inverse_of(self, squares: str) -> str:
        return f"{self.inverse} = inverse_rms({squares}, {self.fraction}, float32({self.eps!r}))"

    @property
    def fraction(self) -> str:
        """1 / n."""
        return f"float32({1 / self.n!r})"


@dataclass
class Centered(Normed):
    """LayerNorm of a source in memory: (x - mean) * inverse * weight, plus a bias if it has one.

    The block's `threads` write the sums that these are made of, by runs of 128 elements, to shared
    memory: `runs` of them, and behind those the same of squares. `bias`: a pointer, or nothing.
    """

    mean: str = "mean"
    bias: str = ""
    threads: int = 0
    runs: str = ""

    @staticmethod
    def runs_bytes(n: int) -> int:
        """Of the sums of n elements' runs."""
        return 4 * -(-n // 128)

    def made_of(self, x: str, gain: str) -> str:
        """See `Gained.made_of`."""
        return super().made_of(f"without({x}, {self.mean})", gain)

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        shift = f"quad_weight({self.bias}, {i}, {self.n})"
        return self._whole(super().quad(i), shift, i)

    def element(self, i: str) -> str:
        """See `Source.element`."""
        weight = f"load_weight_f32(at({self.weight}, {i}))"
        made = f"({self.x.element(i)} - {self.mean}) * {self.inverse} * {weight}"
        return f"({made} + load_weight_f32(at({self.bias}, {i})))" if self.bias else made

    def fetch(self, w: Writer, i: str, tag: str) -> str:
        """See `Gained.fetch`; x is read behind the sums, which have brought it near."""
        shift = f"quad_weight({self.bias}, {i}, {self.n})"
        return self._whole(self.made_of(self.x.quad(i), f"gain{tag}"), shift, i)

    def _whole(self, made: str, shift: str, i: str) -> str:
        """The quad with its bias; the mean and the bias are behind the end too, where zeros are."""
        return f"within({f'plus({made}, {shift})' if self.bias else made}, {i}, {self.n})"

    def ready(self, w: Writer) -> None:
        """See `Source.ready`."""
        if not self.is_ready:
            where, address = self._place()
            squares = f"uint32({self.runs} + {self.runs_bytes(self.n)})"
            w.line(f"store_sums{where}({address}, {self.n}, {self.threads}, {self.runs})")
            w.line("barrier()")
            w.line(f"{self.mean} = sum_of_runs({self.runs}, {self.n}) * {self.fraction}")
            given = f"{address}, {self.mean}, {self.n}, {self.threads}, {squares}"
            w.line(f"store_deviations{where}({given})")
            w.line("barrier()")
            w.line(self._inverse_of(f"sum_of_runs({squares}, {self.n})"))
        self.is_ready = True


@dataclass
class Combined(Source):
    """Attention put together of the partial results of its spans, in memory.

    `sinks`: a logit of each head without a value, or empty. `last`: a variable that has the number
    of the last span.
    """

    values: str
    pairs: str
    sinks: str
    last: str
    heads: int
    head_dim: int

    def __post_init__(self) -> None:
        self.n = self.heads * self.head_dim

    def _given(self, i: str) -> str:
        sinks = f"{self.sinks or self.values}, {bool(self.sinks)}"
        shape = f"{self.heads}, {self.head_dim}"
        return f"({self.values}, {self.pairs}, {sinks}, {self.last}, {i}, {shape})"

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        return f"combined_quad{self._given(i)}"

    def element(self, i: str) -> str:
        """See `Source.element`."""
        return f"combined_element{self._given(i)}"


@dataclass
class Part(Source):
    """The `n` elements of another source that a head has; `first`: a variable with their quad."""

    whole: Source
    first: str
    n: int

    def _place(self, i: str) -> str:
        """Which quad of the whole is number `i`; behind the end, the last one."""
        return f"uint32({self.first} + min_u32({i}, uint32({self.n // 4 - 1})))"

    def _only(self, i: str, quad: str) -> str:
        """The quad, or zeros behind the end."""
        return f"only_quad({i} < uint32({self.n // 4}), {quad})"

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        return self._only(i, self.whole.quad(self._place(i)))

    def element(self, i: str) -> str:
        """See `Source.element`."""
        return self.whole.element(f"uint32({self.first} * uint32(4) + {i})")

    def fetch_weights(self, w: Writer, i: str, tag: str) -> None:
        """See `Source.fetch_weights`."""
        self.whole.fetch_weights(w, self._place(i), tag)

    def fetch(self, w: Writer, i: str, tag: str) -> str:
        """See `Source.fetch`."""
        return self._only(i, self.whole.fetch(w, self._place(i), tag))

    def finish(self, w: Writer, i: str, tag: str) -> None:
        """See `Source.finish`."""
        self.whole.finish(w, self._place(i), tag)

    def ready(self, w: Writer) -> None:
        """See `Source.ready`."""
        self.whole.ready(w)


@dataclass
class Embedded(Source):
    """A row of a table of weights, in quads only."""

    table: Value
    pointer: str
    row: str

    def __post_init__(self) -> None:
        self.n = self.table.shape[-1]

    def quad(self, i: str) -> str:
        """See `Source.quad`."""
        fmt, rows = formats.get(self.table.dtype), self.table.shape[0]
        if isinstance(fmt, FloatFormat):
            chunks, each = -(-self.n // fmt.cuda_chunk), fmt.cuda_chunk // 4
            chunk = f"min_u32(uint32({i} // uint32({each})), uint32({chunks - 1}))"
            loaded = f"fetch_{fmt.name}({self.pointer}, {rows}, {chunks}, {self.row}, {chunk})"
            second = f"uint32({i} & uint32({each - 1})) != uint32(0)"
            return f"choose_quad({second}, floats_{fmt.name}({loaded}))"
        assert isinstance(fmt, QuantFormat)
        blocks = self.n // 32
        block = f"min_u32(uint32({i} >> uint32(3)), uint32({blocks - 1}))"
        fetch = f"fetch_{fmt.name}"
        if self.table.layout == TILES:
            fetch = f"gather_{fmt.name}"
        loaded = f"{fetch}({self.pointer}, {rows}, {blocks}, {self.row}, {block})"
        return f"decode_{fmt.name}({loaded}, uint32({i} & uint32(7)))"

    def element(self, i: str) -> str:
        """Not emitted: `Prologue` puts an embedding that is read inside into shared memory."""
        raise TypeError("an embedding is read by quads")
