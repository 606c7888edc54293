"""Triton's kernels. `pixels.py` and `draws.py` call them; nothing else imports this module, so Triton may be missing.

A program of a kernel belongs to one run (the last axis of its grid). Nothing is multiplied by a mask, because 0 times
NaN is NaN: what a program must not read, it does not load.
"""

import triton
import triton.language as tl

# --- convolutions: activations are [R, B, H, W, C], weights [R, k * k * C_in, C_out] ---


@triton.jit
def convolve(
    x,  # [R, B, high_in, wide_in, IN]
    weight,  # [R, KERNEL * KERNEL * IN, OUT]
    bias,  # [R, OUT] or None
    sign,  # [R, B, high, wide, OUT] or None: LeakyReLU's factor depends on it, else on the result
    addend,  # [R, B, high, wide, OUT] or None
    y,  # [R, B, high, wide, OUT]: the result after LeakyReLU
    total,  # the same plus the addend, or None
    slope,
    boards,
    high_in,
    wide_in,
    high,
    wide,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    TURNED: tl.constexpr,  # the gradient of the input of a convolution with this stride: x is that of its output
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
):
    run = tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    exists = pixel < boards * high * wide
    column = pixel % wide
    row = pixel // wide % high
    board = pixel // (wide * high)
    sums = tl.zeros((PIXELS, WIDTH), dtype=tl.float64 if PRECISION == "float64" else tl.float32)
    for first in range(0, KERNEL * KERNEL * IN, DEPTH):
        depth = first + tl.arange(0, DEPTH)
        tap, of_input = depth // IN, depth % IN
        down, right = tap // KERNEL - KERNEL // 2, tap % KERNEL - KERNEL // 2
        if TURNED:
            high_at = row[:, None] - down[None, :]
            wide_at = column[:, None] - right[None, :]
            there = (high_at >= 0) & (wide_at >= 0) & (high_at % STRIDE == 0) & (wide_at % STRIDE == 0)
            high_at = high_at // STRIDE
            wide_at = wide_at // STRIDE
        else:
            high_at = row[:, None] * STRIDE + down[None, :]
            wide_at = column[:, None] * STRIDE + right[None, :]
            there = (high_at >= 0) & (wide_at >= 0)
        there = there & (high_at < high_in) & (wide_at < wide_in)
        there = there & exists[:, None] & (tap < KERNEL * KERNEL)[None, :]
        from_board = ((run * boards + board)[:, None] * high_in + high_at) * wide_in + wide_at
        taken = tl.load(x + from_board * IN + of_input[None, :], mask=there, other=0.0)
        known = (depth < KERNEL * KERNEL * IN)[:, None] & (channel < OUT)[None, :]
        at = (run * (KERNEL * KERNEL * IN) + depth[:, None]) * OUT + channel[None, :]
        factors = tl.load(weight + at, mask=known, other=0.0)
        sums += _product(taken, factors, PRECISION)
    here = exists[:, None] & (channel < OUT)[None, :]
    at = (run * (boards * high * wide) + pixel[:, None]) * OUT + channel[None, :]
    if bias is not None:
        sums += tl.load(bias + run * OUT + channel, mask=channel < OUT, other=0.0)[None, :]
    decides = sums
    if sign is not None:
        decides = tl.load(sign + at, mask=here, other=0.0).to(sums.dtype)
    sums = tl.where(decides > 0, sums, sums * slope)
    tl.store(y + at, sums, mask=here)
    if total is not None:
        tl.store(total + at, sums + tl.load(addend + at, mask=here, other=0.0), mask=here)


@triton.jit
def weight_gradients(
    x,  # [R, B, high_in, wide_in, IN]
    gradient,  # [R, B, high, wide, OUT]
    weights,  # [parts, R, KERNEL * KERNEL * IN, OUT]: each program's share of the sum
    biases,  # [parts, R, OUT]
    boards,
    high_in,
    wide_in,
    high,
    wide,
    runs,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    SHARE: tl.constexpr,  # pixels of a part
    PIXELS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
):
    run = tl.program_id(2).to(tl.int64)
    widths: tl.constexpr = (OUT + WIDTH - 1) // WIDTH
    part = tl.program_id(0)
    depth = tl.program_id(1) // widths * DEPTH + tl.arange(0, DEPTH)
    channel = tl.program_id(1) % widths * WIDTH + tl.arange(0, WIDTH)
    tap, of_input = depth // IN, depth % IN
    down, right = tap // KERNEL - KERNEL // 2, tap % KERNEL - KERNEL // 2
    kind = tl.float64 if PRECISION == "float64" else tl.float32
    sums = tl.zeros((DEPTH, WIDTH), dtype=kind)
    of_bias = tl.zeros((WIDTH,), dtype=kind)
    pixels = boards * high * wide
    for first in range(0, SHARE, PIXELS):
        pixel = part * SHARE + first + tl.arange(0, PIXELS)
        exists = pixel < pixels
        high_at = (pixel // wide % high)[None, :] * STRIDE + down[:, None]
        wide_at = (pixel % wide)[None, :] * STRIDE + right[:, None]
        there = (high_at >= 0) & (wide_at >= 0) & (high_at < high_in) & (wide_at < wide_in)
        there = there & exists[None, :] & (tap < KERNEL * KERNEL)[:, None]
        from_board = (
            (run * boards + pixel // (wide * high))[None, :] * high_in + high_at
        ) * wide_in + wide_at
        taken = tl.load(x + from_board * IN + of_input[:, None], mask=there, other=0.0)
        here = exists[:, None] & (channel < OUT)[None, :]
        at = (run * pixels + pixel[:, None]) * OUT + channel[None, :]
        upstream = tl.load(gradient + at, mask=here, other=0.0)
        sums += _product(taken, upstream, PRECISION)
        of_bias += tl.sum(upstream.to(kind), axis=0)
    own = part * runs + run
    known = (depth < KERNEL * KERNEL * IN)[:, None] & (channel < OUT)[None, :]
    at = (own * (KERNEL * KERNEL * IN) + depth[:, None]) * OUT + channel[None, :]
    tl.store(weights + at, sums, mask=known)
    if tl.program_id(1) < widths:
        tl.store(biases + own * OUT + channel, of_bias, mask=channel < OUT)


@triton.jit
def _product(a, b, PRECISION: tl.constexpr):
    if PRECISION == "float64":
        product = tl.dot(a, b, out_dtype=tl.float64)
    elif PRECISION == "bfloat16":
        product = tl.dot(a, b)
    elif PRECISION == "rounded":  # the same for the interpreter, which cannot multiply bfloat16
        product = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        product = tl.dot(a, b, input_precision=PRECISION)
    return product


# --- random numbers: `philox.py` says what they are ---


@triton.jit
def words(seeds, steps, found, stream, lanes, count, SIZE: tl.constexpr):
    """Fills `found`, int64 [R, lanes, count]."""
    run = tl.program_id(1).to(tl.int64)
    counter = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    blocks = (count + 3) // 4
    lane, block = counter // blocks, counter % blocks
    w0, w1, w2, w3 = _drawn(seeds, steps, run, lane, block, stream)
    at = found + (run * lanes + lane) * count + 4 * block
    here = lane < lanes
    tl.store(at, w0.to(tl.int64), mask=here)
    tl.store(at + 1, w1.to(tl.int64), mask=here & (4 * block + 1 < count))
    tl.store(at + 2, w2.to(tl.int64), mask=here & (4 * block + 2 < count))
    tl.store(at + 3, w3.to(tl.int64), mask=here & (4 * block + 3 < count))


@triton.jit
def renewed(
    boards,  # uint8 0/1 [R, lanes, count]
    seeds,
    steps,
    chances,  # float64 [R]
    found,  # as boards
    whether,
    what,
    lanes,
    count,
    SIZE: tl.constexpr,
):
    """Replaces each lane with the run's chance (stream `whether`) by fair random bits (stream `what`)."""
    run = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    lane, index = cell // count, cell % count
    here = lane < lanes
    draw, _, _, _ = _drawn(seeds, steps, run, lane, 0 * lane, whether)
    anew = (draw.to(tl.float64) + 0.5) / 4294967296.0 < tl.load(chances + run)
    word = index // 32
    w0, w1, w2, w3 = _drawn(seeds, steps, run, lane, word // 4, what)
    bits = _chosen(w0, w1, w2, w3, word % 4)
    fresh = ((bits >> (index % 32).to(tl.uint32)) & 1).to(tl.uint8)
    at = run * lanes * count + cell
    before = tl.load(boards + at, mask=here, other=0)
    tl.store(found + at, tl.where(anew, fresh, before), mask=here)


@triton.jit
def dropout(
    seeds,
    steps,
    found,  # float32, the factors of all draws one after the other: of each [R, lanes, pixels, channels]
    table,  # int64 [DRAWS, 6]: first program, stream, lanes, pixels, channels, numbers of a run in earlier draws
    runs,
    dropped,
    kept,
    DRAWS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Fills the dropout factors of several draws in one launch."""
    run = tl.program_id(1).to(tl.int64)
    mine = 0
    for draw in tl.static_range(1, DRAWS):
        mine = tl.where(tl.program_id(0) >= tl.load(table + 6 * draw), draw, mine)
    about = table + 6 * mine
    stream, lanes = tl.load(about + 1), tl.load(about + 2)
    pixels, channels, before = tl.load(about + 3), tl.load(about + 4), tl.load(about + 5)
    count = pixels * channels
    element = (tl.program_id(0) - tl.load(about)) * SIZE + tl.arange(0, SIZE)
    lane, index = element // count, element % count  # the numbers are drawn channel by channel
    word = index // 2
    w0, w1, w2, w3 = _drawn(seeds, steps, run, lane, word // 4, stream)
    half = (_chosen(w0, w1, w2, w3, word % 4) >> (index % 2 * 16).to(tl.uint32)) & 0xFFFF
    at = before * runs + (run * lanes + lane) * count + index % pixels * channels + index // pixels
    tl.store(found + at, tl.where(half >= dropped, kept, 0.0), mask=lane < lanes)


@triton.jit
def _drawn(seeds, steps, run, lane, block, stream):
    seed, step = tl.load(seeds + run), tl.load(steps + run)
    same = 0 * lane
    return tl.philox(
        seed,
        lane.to(tl.uint32),
        block.to(tl.uint32),
        (same + step).to(tl.uint32),
        (same + stream).to(tl.uint32),
    )


@triton.jit
def _chosen(w0, w1, w2, w3, which):
    return tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))
