"""The partial results of split attention are put together by every block that reads them.

%a = attention_combine(%a.spans, %pos)
%z = fused matvec_residual(%a, @w, %r)
                               =>     %z = fused combine_matvec(%a.spans, %pos, @w, %r)
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "attention_combine -> matvec => combine_matvec",
    pattern(
        "combine -> product",
        combine="attention_combine",
        product="matvec matvecs matvec_residual",
    ),
)
