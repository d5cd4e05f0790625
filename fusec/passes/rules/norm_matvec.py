"""The norm is computed by every block for itself; its vector never goes to memory.

%n = rms_norm(%x, @g)
%y = matvec(%n, @w)                =>     %y = fused norm_matvec(%x, @g, @w)
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule(
    "rms_norm -> matvec => norm_matvec",
    pattern("norm -> product", norm="rms_norm rms_factors", product="matvec matvecs"),
)
