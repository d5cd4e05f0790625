"""The blocks that make the logits keep the best of theirs.

%logits = fused norm_matvec(%x, @g, @w)
%next.parts = argmax_parts(%logits)
                               =>     %logits, %next.parts = fused norm_matvec_argmax(%x, @g, @w)

The logits are still written: sampling and the caller read them.
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "norm_matvec -> argmax_parts => norm_matvec_argmax",
    pattern(
        "product -> best",
        kept="product",
        product="norm_matvec parts_norm_matvec matvec matvec_residual",
        best="argmax_parts",
    ),
)
