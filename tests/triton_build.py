"""A process that builds every kernel of Triton for two GPUs; `test_triton_build.py` starts it."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from imagination.training import triton_kernels as kernels

VALUES = {"IN": 20, "OUT": 20, "KERNEL": 3, "STRIDE": 1, "PIXELS": 128, "DEPTH": 32, "WIDTH": 32}
OF_WEIGHTS = VALUES | {"PIXELS": 32, "DEPTH": 64, "SHARE": 2048}
KINDS = {"ieee": "*fp32", "tf32": "*fp32", "bfloat16": "*bf16"}
CALLS = [
    (False, ["sign", "addend", "total"]),  # a convolution
    (False, ["sign"]),  # the last one of a residual step
    (True, ["bias", "addend", "total"]),  # the gradient of its input
    (True, ["bias", "sign"]),  # the same at the start of a residual step
]


def build(kernel, target, *, pointers, absent=(), **constants):
    constants |= dict.fromkeys(absent)
    signature = {}
    for parameter in kernel.params:
        name = parameter.name
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = pointers[name]
        else:
            signature[name] = "fp32" if name in ("slope", "kept") else "i32"
    source = ASTSource(kernel, signature, constants)
    made = triton.compile(source, target=GPUTarget("cuda", target, 32))
    assert made.asm["cubin"], kernel
    return made


for target in (80, 90):
    for precision, kind in KINDS.items():
        for turned, absent in CALLS:
            found = dict.fromkeys(("x", "weight", "sign", "addend", "y", "total"), kind) | {"bias": "*fp32"}
            build(
                kernels.convolve,
                target,
                absent=absent,
                pointers=found,
                TURNED=turned,
                PRECISION=precision,
                **VALUES,
            )
        found = {"x": kind, "gradient": kind, "weights": "*fp32", "biases": "*fp32"}
        build(kernels.weight_gradients, target, pointers=found, PRECISION=precision, **OF_WEIGHTS)
    draws = {"seeds": "*i64", "steps": "*i64", "found": "*i64", "stream": "i64"}
    build(kernels.words, target, pointers=draws, SIZE=256)
    more = draws | {"boards": "*u8", "found": "*u8", "chances": "*fp64", "whether": "i64", "what": "i64"}
    build(kernels.renewed, target, pointers=more, SIZE=256)
    build(kernels.dropout, target, pointers=draws | {"found": "*fp32", "table": "*i64"}, DRAWS=6, SIZE=256)
print("built")
