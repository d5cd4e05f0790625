"""Mistakes that a type checker finds: each line with one says what it is told."""

import fusec

b = fusec.Builder("toy")
x = b.input("x", (1, 64))
b.rms_nrom(x, x, eps=1e-5)  # "Builder" has no attribute "rms_nrom"
b.rms_norm(x, eps=1e-5)  # Missing positional argument "w"
b.rms_norm(x, x)  # Missing named argument "eps"
b.softcap(x, cap="30")  # Argument "cap" to "softcap"
b.matvec(x, 3)  # Argument 2 to "matvec"
fusec.laod("model.gguf")  # Module has no attribute "laod"
fusec.load(3)  # Argument 1 to "load"
fusec.load("model.gguf", levle=2)  # Unexpected keyword argument "levle"
fusec.Rule("a -> b => c", "a -> b", refuse=lambda graph: None)  # Argument "refuse" to "Rule"
