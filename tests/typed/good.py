"""A script that uses the library as its pages do: type checkers find nothing wrong in it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import fusec

Floats = npt.NDArray[np.float32]


def graph() -> fusec.Graph:
    b = fusec.Builder("toy")
    x: fusec.Value = b.input("x", (1, 64))
    n = b.rms_norm(x, b.weight("norm", (64,)), eps=1e-5, name="n")
    gained, inverse = b.rms_factors(x, b.weight("norm", (64,)), eps=1e-5)
    y = b.matvec(gained, b.weight("w", (64, 64)), inverse=inverse)
    soft = b.op("softsign", b.add(n, y))
    return b.build(b.softcap(soft, cap=30, name="capped"))


def own_op() -> None:
    fusec.register_op("softsign", "x / (1 + abs(x))", lambda x: x / (1 + np.abs(x)))


def too_tall(graph: fusec.Graph, match: tuple[fusec.Node, ...]) -> str | None:
    return "too tall" if any(node.inputs[0].shape[0] > 512 for node in match) else None


def run(weights: dict[str, Floats], given: Floats) -> Floats:
    rule = fusec.Rule(
        "norm_matvec -> softcap => capped",
        fusec.pattern("product -> cap", product="norm_matvec", cap="softcap"),
        refuse=too_tall,
    )
    compiled: fusec.Compiled = fusec.compile(graph(), level=2, rules=[rule], disable=["chain"])
    for stage in compiled.stages:
        print(stage.name, stage.before, stage.after, stage.hits, stage.refused)
    wanted = fusec.Reference(compiled.graph, weights).step(x=given)["capped"]
    with compiled.session(weights) as session:
        return session.step(x=given)["capped"] - wanted


def model(path: str) -> list[int]:
    with fusec.load(path, level=2, context=256, disable=["epilogue"]) as engine:
        logits = engine.logits([1, 5, 9])
        engine.reset()
        last = engine.step(1)
        assert (last == logits[0]).all()
        return list(engine.generate([1, 5, 9], 8, fusec.Sampling(temperature=0, seed=1)))


def ablation(path: str) -> dict[str, float]:
    rows: list[fusec.Ablation] = fusec.ablate(path, "sm_90a", only=["rules"])
    try:
        return {row.name: row.ratio for row in rows}
    except fusec.FusecError as error:
        raise SystemExit(str(error)) from None
