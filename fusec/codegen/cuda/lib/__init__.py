"""What emitted CUDA kernels call besides single instructions.

Every function is compiled into its caller. The NumPy twins run the same text, so these modules
import nothing but numba's types, `fusec.codegen.cuda.device` and each other. Constants named by a
parameter (`n`, `rows`, `blocks`) are literals in the kernels and vanish when they are inlined.
Operands are typed by Numba, not by hints: a tuple of words here is a tuple of arrays for the twins.
"""
