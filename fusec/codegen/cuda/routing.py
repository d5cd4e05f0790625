"""Which experts a token uses: `route`, by one warp.

Lane l has experts l, l + 32, ... in registers. Whatever is chosen is found in rounds: the largest
key of the warp, the lowest number on ties, and then that one is no key any more. What was chosen in
round k is in lane k. A sum goes over a lane's experts in order, then over the lanes as a butterfly.
"""

from __future__ import annotations

from fusec.codegen.cuda.scope import Scope
from fusec.codegen.cuda.shape import WARP
from fusec.ir.graph import Node
from fusec.ir.op_experts import LEAST_SUM

GATED = {"sigmoid": "sigmoid({})", "softplus": "sqrt_f32(softplus({}))"}
NONE = "uint32(0)"  # a key below that of every float


class Routing:
    """Emits one node."""

    def __init__(self, scope: Scope, node: Node) -> None:
        self.scope, self.w, self.node = scope, scope.w, node
        self.experts = node.inputs[0].shape[-1]
        self.gating, self.used = str(node["gating"]), int(node["used"])
        self.own = range(-(-self.experts // WARP))  # a lane's experts

    def emit(self) -> None:
        """From the logits to the stores."""
        self._probabilities()
        if self.gating == "softmax":
            self._softmax([f"p{j}" for j in self.own], [f"is{j}" for j in self.own])
        self._keys()
        if int(self.node["groups"]) > 1:
            self._keep_groups()
        self._choose()
        self._weigh()
        ids, weights = (self.scope.pointers[v.name] for v in self.node.outputs)
        self.w.line("live = is_used & (warp == uint32(0))")
        self.w.line(f"store_u32_if(at({ids}, lane), chosen, live)")
        self.w.line(f"store_f32_if(at({weights}, lane), weight, live)")

    def _probabilities(self) -> None:
        w, logits = self.w, self.scope.pointers[self.node.inputs[0].name]
        for j in self.own:
            w.line(f"e{j} = uint32(lane + uint32({WARP * j}))")
            w.line(f"is{j} = e{j} < uint32({self.experts})")
            place = f"min_u32(e{j}, uint32({self.experts - 1}))"
            w.line(f"p{j} = load_f32(at({logits}, {place}))")
        if gated := GATED.get(self.gating):
            for j in self.own:
                w.line(f"p{j} = {gated.format(f'p{j}')}")

    def _softmax(self, values: list[str], live: list[str]) -> None:
        """In place; those that are not live become 0."""
        w = self.w
        w.line(f"top = {NONE}")
        for x, here in zip(values, live, strict=True):
            w.line(f"top = max_u32(top, select_u32({here}, order_of({x}), {NONE}))")
        w.line("top = of_order(warp_max_u32(top))")
        w.line("total = float32(0)")
        for x, here in zip(values, live, strict=True):
            w.line(f"{x} = select_f32({here}, exp_f32({x} - top), float32(0))")
            w.line(f"total = total + {x}")
        w.line("total = warp_sum(total)")
        for x in values:
            w.line(f"{x} = div_f32({x}, total)")

    def _keys(self) -> None:
        """What experts are chosen by, as integers that order like it."""
        bias = [self.scope.pointers[v.name] for v in self.node.inputs[1:]]
        for j in self.own:
            score = f"p{j}"
            if bias:
                place = f"min_u32(e{j}, uint32({self.experts - 1}))"
                score += f" + load_weight_f32(at({bias[0]}, {place}))"
            self.w.line(f"key{j} = select_u32(is{j}, order_of({score}), {NONE})")

    def _best_key(self) -> None:
        """The largest key of the warp and where it is: `key` and `best`."""
        w = self.w
        w.line("key, best = key0, e0")
        for j in self.own[1:]:
            w.line(f"wins = key{j} > key")
            w.line(f"key, best = select_u32(wins, key{j}, key), select_u32(wins, e{j}, best)")
        w.line("key, best = warp_best(key, best)")

    def _keep_groups(self) -> None:
        """Experts of groups whose two best do not add up to most have no key any more."""
        w, groups = self.w, int(self.node["groups"])
        size = self.experts // groups
        for j in self.own:
            w.line(f"group{j} = uint32(e{j} // uint32({size}))")
        w.line("of_group = float32(0)")
        with w.block(f"for group in range({groups}):"):
            w.line(f"first, second = {NONE}, {NONE}")
            for j in self.own:
                w.line(f"other = select_u32(group{j} == uint32(group), key{j}, {NONE})")
                w.line("second = max_u32(second, min_u32(first, other))")
                w.line("first = max_u32(first, other)")
            w.line("top, best = warp_best(first, lane)")
            w.line("second = warp_max_u32(select_u32(best == lane, second, first))")
            w.line("both = of_order(top) + of_order(second)")
            w.line("of_group = select_f32(lane == uint32(group), both, of_group)")
        w.line(f"left = select_u32(lane < uint32({groups}), order_of(of_group), {NONE})")
        w.line("kept = uint32(0)")
        with w.block(f"for turn in range({int(self.node['groups_used'])}):"):
            w.line("_, best = warp_best(left, lane)")
            w.line("kept = uint32(kept | uint32(uint32(1) << best))")
            w.line(f"left = select_u32(lane == best, {NONE}, left)")
        for j in self.own:
            w.line(f"stays = uint32(uint32(kept >> group{j}) & uint32(1)) == uint32(1)")
            w.line(f"key{j} = select_u32(stays, key{j}, {NONE})")

    def _choose(self) -> None:
        """`chosen` and its probability, `weight`, of each lane that is a slot (`is_used`)."""
        w = self.w
        w.line(f"is_used = lane < uint32({self.used})")
        w.line("chosen, weight = uint32(0), float32(0)")
        with w.block(f"for slot in range({self.used}):"):
            self._best_key()
            w.line("p = p0")
            for j in self.own:
                w.line(f"p = select_f32(e{j} == best, p{j}, p)")
                w.line(f"key{j} = select_u32(e{j} == best, {NONE}, key{j})")
            w.line("p = shuffle_from_f32(p, uint32(best & uint32(31)))")
            w.line("here = lane == uint32(slot)")
            w.line("chosen = select_u32(here, best, chosen)")
            w.line("weight = select_f32(here, p, weight)")

    def _weigh(self) -> None:
        w, scale = self.w, float(self.node["scale"])
        if self.gating == "chosen":
            self._softmax(["weight"], ["is_used"])
        if self.node["normalised"]:
            w.line("total = warp_sum(weight)")
            w.line(f"weight = div_f32(weight, max_f32(total, float32({LEAST_SUM!r})))")
        if scale != 1.0:
            w.line(f"weight = weight * float32({scale!r})")
