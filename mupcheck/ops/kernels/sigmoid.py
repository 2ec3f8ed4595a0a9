# mypy: disallow-untyped-defs=False
"""The logistic function in five instructions; what is composed of exp and a division takes twelve."""

import triton
import triton.language as tl

COMPILED = tl.constexpr(not triton.knobs.runtime.interpret)  # the interpreter knows no PTX


@triton.jit
def sigmoid(x):
    """Return 1 / (1 + exp(-x)) of float32 x, off by 1e-7 (1 + abs(x)) of itself at most; 0 where it is below 1e-38."""
    if COMPILED:
        # 2^(-x log2(e)), one more, and its reciprocal; the division would guard against subnormal numbers
        return tl.inline_asm_elementwise(
            "{ .reg .f32 t; mul.f32 t, $1, 0fBFB8AA3B; ex2.approx.ftz.f32 t, t; add.f32 t, t, 0f3F800000; "
            "rcp.approx.ftz.f32 $0, t; }",
            "=f,f",
            [x],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        return tl.sigmoid(x)
