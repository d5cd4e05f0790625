"""An activation of one's own: registered, fused into the products it stands between, and run.

    python examples/own_op.py

A gated feed-forward with `shrink`, which keeps x**2 above a threshold and nothing below it. The op
table of fusec has no such op; fusion, kernels and the cost model need nothing but its entry.
"""

from __future__ import annotations

import numpy as np

import fusec

WIDTH, HIDDEN = 256, 512


def shrink(x: np.ndarray, *, threshold: float = 0.5) -> np.ndarray:
    """x**2 above a threshold, 0 below it."""
    return np.where(x > threshold, x * x, 0)


def feed_forward() -> fusec.Graph:
    """down(shrink(gate(n)) * up(n)) + x, with n the norm of x."""
    b = fusec.Builder("own")
    x = b.input("x", (1, WIDTH))
    n = b.rms_norm(x, b.weight("norm", (WIDTH,)), eps=1e-5)
    gate = b.matvec(n, b.weight("gate", (HIDDEN, WIDTH)))
    up = b.matvec(n, b.weight("up", (HIDDEN, WIDTH)))
    # of a registered op, `op` is the form that type checkers know; b.shrink(gate) is the same
    h = b.mul(b.op("shrink", gate, threshold=0.25), up)
    return b.build(b.add(b.matvec(h, b.weight("down", (WIDTH, HIDDEN))), x, name="y"))


def main() -> None:
    """Compile for both targets; run on the CPU beside the reference."""
    fusec.register_op("shrink", "x * x if x > threshold else 0", shrink)
    graph = feed_forward()
    random = np.random.default_rng(0)
    matrices = (w for w in graph.weights if len(w.shape) == 2)
    weights = {"norm": np.ones(WIDTH, np.float32)} | {
        w.name[1:]: (random.standard_normal(w.shape) / w.shape[1] ** 0.5).astype(np.float32)
        for w in matrices
    }
    given = random.standard_normal((1, WIDTH)).astype(np.float32)

    compiled = fusec.compile(graph)
    print("kernels:  ", ", ".join(node.kind for node in compiled.graph.nodes))
    with compiled.session(weights) as session:
        found = session.step(x=given)["y"]
    wanted = fusec.Reference(graph, weights).step(x=given)["y"]
    print(f"on the CPU: {np.abs(found - wanted).max():.1e} from the float64 reference")

    on_a_gpu = fusec.compile(graph, target="sm_90a")
    (first, *_) = on_a_gpu.kernels.values()
    line = next(
        line for line in first.source.splitlines() if "select_f32" in line and " = " in line
    )
    print("for sm_90a:", line.strip())


if __name__ == "__main__":
    main()
