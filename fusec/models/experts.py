"""Mixture of experts in a model file: the hyperparameters, and the tensors that a layer has.

A file stacks the matrices of all experts, [experts, rows, columns]; the graph reads them as one
tall matrix of experts * rows rows (`fusec.ir.op_experts`), which are the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fusec.errors import FusecError
from fusec.ir.op_experts import GATINGS, MOST_USED
from fusec.models.gguf_file import GGUFFile, Tensor
from fusec.models.hyperparameters import Hyperparameters

CODES = dict(enumerate(GATINGS, start=1))
STACKED = re.compile(r"(?P<layer>blk\.\d+)\.(?P<name>ffn_\w+_exps)\.(?P<kind>weight|bias)")
APART = re.compile(r"(?P<layer>blk\.\d+)\.ffn_(?P<part>gate|up|down)\.(?P<expert>\d+)\.weight")
RANKS = {"weight": 3, "bias": 2}  # of stacks
MERGED = "ffn_gate_up_exps"  # of each expert first the gate's rows
ROUTER = "ffn_gate_inp.weight"
SHARED_GATE = "ffn_gate_inp_shexp.weight"  # a row, which files have as a vector


@dataclass(frozen=True)
class Experts:
    """The feed-forwards of a layer, of which every token uses some."""

    count: int
    used: int
    width: int  # elements between an expert's gate and up, and its down
    dense: int = 0  # layers in front of the first that has experts
    gating: str = "softmax"  # see `fusec.ir.op_experts.GATINGS`
    normalised: bool = True  # the weights of those that are used add up to 1
    scale: float = 1.0  # of the weights
    groups: int = 1
    groups_used: int = 1
    choice_bias: bool = False  # exp_probs_b.bias, which decides who is chosen and nothing else
    shared: int = 0  # width of a feed-forward beside them, which every token uses
    shared_gate: bool = False  # which is multiplied by a sigmoid

    @property
    def routing(self) -> dict[str, int | float | str]:
        """The attributes of a layer's `route`."""
        return {
            "used": self.used,
            "gating": self.gating,
            "normalised": int(self.normalised),
            "scale": self.scale,
            "groups": self.groups,
            "groups_used": self.groups_used,
        }

    def tensors(self, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """(name in a layer, shape in the graph) of the tensors in a model of that width."""
        yield ROUTER, (self.count, width)
        if self.choice_bias:
            yield "exp_probs_b.bias", (self.count,)
        yield "ffn_gate_exps.weight", (self.count * self.width, width)
        yield "ffn_up_exps.weight", (self.count * self.width, width)
        yield "ffn_down_exps.weight", (self.count * width, self.width)
        if self.shared:
            if self.shared_gate:
                yield SHARED_GATE, (1, width)
            yield "ffn_gate_shexp.weight", (self.shared, width)
            yield "ffn_up_shexp.weight", (self.shared, width)
            yield "ffn_down_shexp.weight", (width, self.shared)

    def shape_in_file(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a tensor in files, from that in the graph."""
        if is_stack(name):
            return (self.count, shape[0] // self.count, *shape[1:])
        return shape[1:] if name.endswith(SHARED_GATE) else shape


def is_stack(name: str) -> bool:
    """Whether a tensor has the matrices, or biases, of all experts of a layer."""
    return STACKED.fullmatch(name) is not None


def read_experts(
    keys: Hyperparameters,
    *,
    width: int = 0,
    shared: int = 0,
    gating: str = "softmax",
    normalised: bool = True,
    file_says: bool = False,
    shared_gate: bool = False,
) -> Experts | None:
    """What the metadata says of experts; None if there are none.

    `width`: of an expert, where a file does not say. `gating` and `normalised` are the
    architecture's; `file_says`: its files may say something else of the weights.
    Raises FusecError naming the key at fault.
    """
    count = keys.count("expert_count", 0, least=0)
    if not count:
        if routers := [name for name in keys.file.tensors if name.endswith(ROUTER)]:
            raise FusecError(
                f"{keys.file.path}: {keys.key('expert_count')} is missing or 0, expected the "
                f"rows of tensor {routers[0]!r}"
            )
        return None
    if file_says:
        code = keys.count("expert_gating_func", 0, least=0)
        if code and code not in CODES:
            raise _unsupported(keys, "expert_gating_func", code, f"1 to {len(CODES)}")
        gating = CODES.get(code, gating)
        normalised = keys.flag("expert_weights_norm", normalised)
        scale = keys.real("expert_weights_scale", 0.0) or 1.0
    else:
        code = next(code for code, name in CODES.items() if name == gating)
        keys.only("expert_gating_func", 0, code)
        keys.only("expert_weights_norm", normalised)
        keys.only("expert_weights_scale", 1.0, 0.0)
        scale = 1.0
    dense = keys.count("leading_dense_block_count", 0, least=0)
    found = Experts(
        count,
        keys.count("expert_used_count"),
        width or width_of(keys),
        dense,
        gating,
        normalised,
        scale,
        max(1, keys.count("expert_group_count", 0, least=0)),
        max(1, keys.count("expert_group_used_count", 0, least=0)),
        f"blk.{dense}.exp_probs_b.bias" in keys.file.tensors,
        shared,
        shared_gate and shared > 0,
    )
    _check(keys, found)
    return found


def width_of(keys: Hyperparameters) -> int:
    """Elements between an expert's gate and up, and its down, which all layers have alike."""
    return keys.per_layer("expert_feed_forward_length", keys.count("block_count"))


def _check(keys: Hyperparameters, found: Experts) -> None:
    """Refuse numbers that do not go together."""
    size, rest = divmod(found.count, found.groups)
    if rest or (found.groups > 1 and size < 2):
        wanted = f"to divide {found.count} experts, into groups of at least two"
        raise _unsupported(keys, "expert_group_count", found.groups, wanted)
    if found.groups_used > found.groups:
        wanted = f"at most {found.groups} groups"
        raise _unsupported(keys, "expert_group_used_count", found.groups_used, wanted)
    most = min(size * found.groups_used, MOST_USED)
    if found.used > most:
        raise _unsupported(keys, "expert_used_count", found.used, f"at most {most} experts")


def _unsupported(keys: Hyperparameters, name: str, found: object, expected: str) -> FusecError:
    return FusecError(
        f"{keys.file.path}: {keys.key(name)} is {found}, which is not supported: expected "
        f"{expected}"
    )


def stacked(file: GGUFFile, experts: Experts) -> dict[str, Tensor]:
    """A file's tensors with those of experts as the graph reads them.

    Stacks are the same bytes in another shape. Where gate and up are merged, or each expert has
    tensors of its own, as in the first files of Mixtral, they are copied. Raises FusecError for a
    stack of more or fewer experts: other rows could make up for it.
    """
    found: dict[str, Tensor] = {}
    apart: dict[str, dict[int, Tensor]] = {}
    for name, tensor in file.tensors.items():
        if match := APART.fullmatch(name):
            stack = f"{match['layer']}.ffn_{match['part']}_exps.weight"
            apart.setdefault(stack, {})[int(match["expert"])] = tensor
        elif (match := STACKED.fullmatch(name)) and len(tensor.shape) == RANKS[match["kind"]]:
            if tensor.shape[0] != experts.count:
                raise FusecError(
                    f"{file.path}: tensor {name!r} should have {experts.count} experts, found "
                    f"{tensor.shape[0]} in shape {tensor.shape}"
                )
            for part, own in _parts(tensor, match["name"]).items():
                whole = f"{match['layer']}.{part}.{match['kind']}"
                found[whole] = _tall(whole, own, match["kind"])
        elif name.endswith(SHARED_GATE) and len(tensor.shape) == 1:
            data = tensor.data.reshape(1, -1)
            found[name] = Tensor(name, tensor.dtype, (1, *tensor.shape), data, tensor.offset)
        else:
            found[name] = tensor
    return found | {name: _stack(file, name, own, experts) for name, own in apart.items()}


def _parts(tensor: Tensor, name: str) -> dict[str, Tensor]:
    """The tensors that a stack holds: itself, or gate and up of each expert."""
    if name != MERGED:
        return {name: tensor}
    count, rows, *rest = tensor.shape
    data = tensor.data.reshape(count, rows, -1)
    halves = {"ffn_gate_exps": data[:, : rows // 2], "ffn_up_exps": data[:, rows // 2 :]}
    return {
        part: Tensor(part, tensor.dtype, (count, half.shape[1], *rest), half, tensor.offset)
        for part, half in halves.items()
    }


def _tall(name: str, tensor: Tensor, kind: str) -> Tensor:
    """A stack as one matrix, or one vector of all biases."""
    count, rows, *rest = tensor.shape
    shape = (count * rows, *rest)
    data = tensor.data.reshape(-1) if kind == "bias" else tensor.data.reshape(count * rows, -1)
    return Tensor(name, tensor.dtype, shape, data, tensor.offset)


def _stack(file: GGUFFile, name: str, own: Mapping[int, Tensor], experts: Experts) -> Tensor:
    """Matrices of single experts as one. Raises FusecError where they do not fit."""
    first, *others = (own[k] for k in sorted(own))
    kinds = {(tensor.dtype, tensor.shape) for tensor in own.values()}
    if sorted(own) != list(range(experts.count)) or len(kinds) > 1:
        raise FusecError(
            f"{file.path}: tensor {first.name!r}: expected one like it for each of "
            f"{experts.count} experts, found {len(own)} tensors of {len(kinds)} types and shapes"
        )
    data = np.concatenate([first.data, *(tensor.data for tensor in others)])
    return Tensor(name, first.dtype, (len(data), *first.shape[1:]), data, first.offset)
