"""SiLU and the product with `up` in one pass (Shazeer 2020, "GLU variants").

%s = silu(%gate)
%h = mul(%s, %up)                  =>     %h = fused swiglu(%gate, %up)
"""

from fusec.passes.rule import Rule, pattern

RULE = Rule("silu -> mul => swiglu", pattern("act -> product", act="silu", product="mul"))
