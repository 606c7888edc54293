/* The kernels of `native.py`, for one core with AVX-512: 3x3 convolutions, LSTM cells, and their gradients.

   Activations are [runs, groups, channels, H + 2, W + 2, 16]: the lanes of a vector are 16 boards, and each board has a
   border of zeros. So every number of channels fills whole vectors. Each run is computed by itself. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef float vec __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));

enum { LANES = 16, TAPS = 9, MOST = 25, WEIGHT_TILE = 3 };

#define INLINE static inline __attribute__((always_inline))

/* A tensor of one run. */
typedef struct {
    long channels, high, wide;
} Form;

INLINE long row_of(Form f) { return f.wide + 2; }
INLINE long plane_of(Form f) { return (f.high + 2) * (f.wide + 2); }
INLINE long size_of(Form f) { return f.channels * plane_of(f); }

/* --- outputs: CO channels x PX pixels of a row at a time, so that the sums stay in registers --- */

typedef void Tile(const vec *x, const float *w, vec *sums, long in, long plane, long row);

/* `x` is the first tap of the first pixel, `w` is [in, 9, CO]. */
INLINE void tile(int CO, int PX, int stride, const vec *x, const float *w, vec *sums, long in, long plane, long row) {
    vec acc[MOST];
#pragma GCC unroll 32
    for (int k = 0; k < CO * PX; k++) acc[k] = sums[k];
    for (long i = 0; i < in; i++, x += plane)
#pragma GCC unroll 3
        for (int dy = 0; dy < 3; dy++)
#pragma GCC unroll 3
            for (int dx = 0; dx < 3; dx++, w += CO) {
                vec here[5];
#pragma GCC unroll 8
                for (int p = 0; p < PX; p++) here[p] = x[dy * row + dx + p * stride];
#pragma GCC unroll 8
                for (int c = 0; c < CO; c++)
#pragma GCC unroll 8
                    for (int p = 0; p < PX; p++) acc[c * PX + p] += w[c] * here[p];
            }
#pragma GCC unroll 32
    for (int k = 0; k < CO * PX; k++) sums[k] = acc[k];
}

#define TILE(CO, PX)                                                                                             \
    static void tile_##CO##_##PX(const vec *x, const float *w, vec *sums, long in, long plane, long row) {        \
        tile(CO, PX, 1, x, w, sums, in, plane, row);                                                              \
    }                                                                                                             \
    static void strided_##CO##_##PX(const vec *x, const float *w, vec *sums, long in, long plane, long row) {     \
        tile(CO, PX, 2, x, w, sums, in, plane, row);                                                              \
    }
#define TILES(PX) TILE(1, PX) TILE(2, PX) TILE(3, PX) TILE(4, PX) TILE(5, PX)
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5)

#define NAMES(KIND, PX) {KIND##_1_##PX, KIND##_2_##PX, KIND##_3_##PX, KIND##_4_##PX, KIND##_5_##PX}
static Tile *const TABLE[2][5][5] = {
    {NAMES(tile, 1), NAMES(tile, 2), NAMES(tile, 3), NAMES(tile, 4), NAMES(tile, 5)},
    {NAMES(strided, 1), NAMES(strided, 2), NAMES(strided, 3), NAMES(strided, 4), NAMES(strided, 5)},
};

/* Where part `k` begins if `total` items are split into `parts` whose sizes differ by one at most. */
INLINE long cut(long total, long parts, long k) { return total * k / parts; }
INLINE long parts_of(long total, long most) { return (total + most - 1) / most; }

INLINE vec slope_of(vec sign, float slope) {
    ints positive = sign > 0.0f;
    return (vec)((positive & (ints)((vec){0} + 1.0f)) | (~positive & (ints)((vec){0} + slope)));
}

static void clear_border(vec *x, Form f) {
    long row = row_of(f);
    for (long c = 0; c < f.channels; c++, x += plane_of(f)) {
        memset(x, 0, row * sizeof(vec));
        memset(x + (f.high + 1) * row, 0, row * sizeof(vec));
        for (long y = 1; y <= f.high; y++) x[y * row] = x[y * row + f.wide + 1] = (vec){0};
    }
}

/* One group of boards. `w` is packed by tiles of output channels. LeakyReLU's slope applies where `sign` is not positive,
   a tensor of the output's form; if it is NULL, where the output itself is not. */
static void convolve_group(const vec *x, Form from, const float *w, const float *bias, const vec *sign, float slope,
                           vec *y, Form to, long stride) {
    long tiles = parts_of(to.channels, 5), strips = parts_of(to.wide, 5), row = row_of(to), plane = plane_of(to);
    vec sums[MOST];
    clear_border(y, to);
    for (long j = 0; j < to.high; j++)
        for (long s = 0; s < strips; s++) {
            long left = cut(to.wide, strips, s), px = cut(to.wide, strips, s + 1) - left;
            const vec *first = x + j * stride * row_of(from) + left * stride;
            for (long t = 0; t < tiles; t++) {
                long c0 = cut(to.channels, tiles, t), co = cut(to.channels, tiles, t + 1) - c0;
                for (long c = 0; c < co; c++)
                    for (long p = 0; p < px; p++) sums[c * px + p] = (vec){0} + (bias ? bias[c0 + c] : 0.0f);
                TABLE[stride - 1][px - 1][co - 1](first, w + c0 * from.channels * TAPS, sums, from.channels,
                                                  plane_of(from), row_of(from));
                for (long c = 0; c < co; c++) {
                    long at = (c0 + c) * plane + (j + 1) * row + left + 1;
                    for (long p = 0; p < px; p++) {
                        vec sum = sums[c * px + p];
                        y[at + p] = sum * slope_of(sign ? sign[at + p] : sum, slope);
                    }
                }
            }
        }
}

/* Weights by tiles of the channels `out` of the result, each tile [in, 9, tile]. `turned`: those of the gradient of the
   input, from weights [in, out, 9]. */
static void pack(const float *w, float *packed, long in, long out, int turned) {
    long tiles = parts_of(out, 5);
    for (long t = 0; t < tiles; t++)
        for (long i = 0; i < in; i++)
            for (long tap = 0; tap < TAPS; tap++)
                for (long c = cut(out, tiles, t); c < cut(out, tiles, t + 1); c++)
                    *packed++ = turned ? w[(i * out + c) * TAPS + TAPS - 1 - tap] : w[(c * in + i) * TAPS + tap];
}

/* y = leaky(conv(x, w) + bias), or with `turned` the gradient of the input of a convolution with stride 1, times the
   slope at `sign`. */
int convolve(const float *x, const float *w, const float *bias, const float *sign, float slope, float *y, long runs,
             long groups, long in, long out, long high, long wide, long stride, int turned) {
    Form from = {in, high, wide}, to = {out, (high + stride - 1) / stride, (wide + stride - 1) / stride};
    float *packed = malloc(in * out * TAPS * sizeof(float));
    if (!packed) return 1;
    for (long r = 0; r < runs; r++) {
        pack(w + r * in * out * TAPS, packed, in, out, turned);
        for (long g = r * groups; g < (r + 1) * groups; g++)
            convolve_group((const vec *)x + g * size_of(from), from, packed, bias ? bias + r * out : NULL,
                           sign ? (const vec *)sign + g * size_of(to) : NULL, slope, (vec *)y + g * size_of(to), to,
                           stride);
    }
    free(packed);
    return 0;
}

/* --- stride 1 and several channels: Winograd's F(2x2, 3x3) (Lavin and Gray, 2016), 16 products for 4 pixels, not 36 --- */

enum { POINTS = 16, MOST_TILES = 3, MOST_CHANNELS = 8 };

/* Products of one point: m [CO, 4, PX] from v [in, 4, PX] and u [in, CO]. */
typedef void Dot(const vec *v, const float *u, vec *m, long in);

INLINE void dot(int CO, int PX, const vec *v, const float *u, vec *m, long in) {
    vec acc[MOST_CHANNELS * MOST_TILES] = {{0}};
    for (long i = 0; i < in; i++, v += 4 * PX, u += CO) {
        vec here[MOST_TILES];
#pragma GCC unroll 8
        for (int p = 0; p < PX; p++) here[p] = v[p];
#pragma GCC unroll 8
        for (int c = 0; c < CO; c++)
#pragma GCC unroll 8
            for (int p = 0; p < PX; p++) acc[c * PX + p] += u[c] * here[p];
    }
#pragma GCC unroll 8
    for (int c = 0; c < CO; c++)
#pragma GCC unroll 8
        for (int p = 0; p < PX; p++) m[4 * PX * c + p] = acc[c * PX + p];
}

#define DOT(CO, PX)                                                                                              \
    static void dot_##CO##_##PX(const vec *v, const float *u, vec *m, long in) { dot(CO, PX, v, u, m, in); }
#define DOTS(PX) DOT(1, PX) DOT(2, PX) DOT(3, PX) DOT(4, PX) DOT(5, PX) DOT(6, PX) DOT(7, PX) DOT(8, PX)
DOTS(1) DOTS(2) DOTS(3)
#define DOT_NAMES(PX)                                                                                            \
    {dot_1_##PX, dot_2_##PX, dot_3_##PX, dot_4_##PX, dot_5_##PX, dot_6_##PX, dot_7_##PX, dot_8_##PX}
static Dot *const DOT_TABLE[MOST_TILES][MOST_CHANNELS] = {DOT_NAMES(1), DOT_NAMES(2), DOT_NAMES(3)};

INLINE long tiles_of(Form f) { return (f.wide + 1) / 2; }

/* Whether it is faster than direct convolution. */
INLINE int is_for_winograd(long in, long out) { return in >= 5 && out >= 5; }

/* The transformed weights G w G^T, [16, parts, in, part]. Arguments as in `pack`. */
static void pack_points(const float *w, float *packed, long in, Form to, int turned) {
    static const float G[4][3] = {{1, 0, 0}, {.5f, .5f, .5f}, {.5f, -.5f, .5f}, {0, 0, 1}};
    long out = to.channels, parts = parts_of(out, MOST_CHANNELS);
    for (long part = 0; part < parts; part++) {
        long begin = cut(out, parts, part), end = cut(out, parts, part + 1);
        for (long i = 0; i < in; i++)
            for (long c = begin; c < end; c++) {
                float half[4][3];
                for (int a = 0; a < 4; a++)
                    for (int x = 0; x < 3; x++) {
                        half[a][x] = 0;
                        for (int y = 0; y < 3; y++) {
                            int tap = 3 * y + x;
                            half[a][x] += G[a][y] * (turned ? w[(i * out + c) * TAPS + 8 - tap]
                                                            : w[(c * in + i) * TAPS + tap]);
                        }
                    }
                float *to_point = packed + in * begin + i * (end - begin) + c - begin;
                for (int a = 0; a < 4; a++)
                    for (int b = 0; b < 4; b++)
                        to_point[(4 * a + b) * in * out] =
                            half[a][0] * G[b][0] + half[a][1] * G[b][1] + half[a][2] * G[b][2];
            }
    }
}

/* Room for a row of points of some tiles, for their products, and for the tiles' pixels, in vectors. */
INLINE long winograd_room(Form from, Form to) {
    return 4 * MOST_TILES * (from.channels + MOST_CHANNELS + to.channels);
}

/* B^T d B: row `a` of the points, v [in, 4, PX], of PX tiles, the first at x. It needs the rows TOP[a] and `low`, and
   `last` is the column of the last pixel. Beyond the border any row or column will do: only pixels outside of the
   board depend on it. */
INLINE void transform_input(int PX, int a, const vec *x, Form from, long low, long last, vec *v) {
    static const int TOP[4] = {0, 1, 2, 1};
    for (long i = 0; i < from.channels; i++, x += plane_of(from), v += 4 * PX) {
        const vec *d = x + TOP[a] * row_of(from), *e = x + low * row_of(from);
        vec half[2 * MOST_TILES + 2];
#pragma GCC unroll 8
        for (int k = 0; k < 2 * PX + 2; k++) {
            long at = k < 2 * PX + 1 ? k : last;
            half[k] = a == 1 ? d[at] + e[at] : d[at] - e[at];
        }
#pragma GCC unroll 3
        for (int p = 0; p < PX; p++) {
            v[p] = half[2 * p] - half[2 * p + 2];
            v[PX + p] = half[2 * p + 1] + half[2 * p + 2];
            v[2 * PX + p] = half[2 * p + 2] - half[2 * p + 1];
            v[3 * PX + p] = half[2 * p + 1] - half[2 * p + 3];
        }
    }
}

/* A^T m A: adds to the pixels y [count, 2, 2 PX] what row `a` of the points, m [count, 4, PX], gives. */
INLINE void transform_output(int PX, int a, const vec *m, long count, vec *y) {
    for (long c = 0; c < count; c++, m += 4 * PX, y += 4 * PX)
#pragma GCC unroll 3
        for (int p = 0; p < PX; p++) {
            vec both[2] = {m[p] + m[PX + p] + m[2 * PX + p], m[PX + p] - m[2 * PX + p] - m[3 * PX + p]};
#pragma GCC unroll 2
            for (int b = 0; b < 2; b++) {
                int up = 2 * p + b, down = up + 2 * PX;
                if (a == 0) y[up] = both[b];
                if (a == 1) y[up] += both[b], y[down] = both[b];
                if (a == 2) y[up] += both[b], y[down] -= both[b];
                if (a == 3) y[down] -= both[b];
            }
        }
}

/* PX tiles of `winograd_group`: pixels of rows j and j + 1, from column `left` on. */
INLINE void strip(int PX, const vec *x, Form from, const float *u, const float *bias, const vec *sign, float slope,
                  vec *y, Form to, vec *room, long j, long left) {
    static const int LOW[4] = {2, 2, 1, 3};
    long row = row_of(to), in = from.channels, out = to.channels, parts = parts_of(out, MOST_CHANNELS);
    long high = to.high - j < 2 ? to.high - j : 2, wide = to.wide - left < 2 * PX ? to.wide - left : 2 * PX;
    vec *v = room, *m = v + 4 * PX * in, *sums = m + 4 * PX * MOST_CHANNELS;
    x += j * row + left;
#pragma GCC unroll 4
    for (int a = 0; a < 4; a++) {
        transform_input(PX, a, x, from, LOW[a] < high + 2 ? LOW[a] : 0, wide + 1, v);
        for (long part = 0; part < parts; part++) {
            long c0 = cut(out, parts, part), co = cut(out, parts, part + 1) - c0;
            for (long b = 0; b < 4; b++)
                DOT_TABLE[PX - 1][co - 1](v + b * PX, u + ((4 * a + b) * out + c0) * in, m + b * PX, in);
            transform_output(PX, a, m, co, sums + 4 * PX * c0);
        }
    }
    for (long c = 0; c < out; c++)
        for (long a = 0; a < high; a++)
            for (long b = 0; b < wide; b++) {
                long at = c * plane_of(to) + (j + a + 1) * row + left + b + 1;
                vec sum = sums[(2 * c + a) * 2 * PX + b] + (bias ? bias[c] : 0.0f);
                y[at] = sum * slope_of(sign ? sign[at] : sum, slope);
            }
}

/* As `convolve_group` with stride 1, with weights from `pack_points`. It computes one row of points of a few tiles after
   the other, so that all between x and y stays in the first cache. */
static void winograd_group(const vec *x, Form from, const float *u, const float *bias, const vec *sign, float slope,
                           vec *y, Form to, vec *room) {
    long tiles = tiles_of(to), strips = parts_of(tiles, MOST_TILES);
    clear_border(y, to);
    for (long j = 0; j < to.high; j += 2)
        for (long s = 0; s < strips; s++) {
            long left = cut(tiles, strips, s), px = cut(tiles, strips, s + 1) - left;
            if (px == 3) strip(3, x, from, u, bias, sign, slope, y, to, room, j, 2 * left);
            else if (px == 2) strip(2, x, from, u, bias, sign, slope, y, to, room, j, 2 * left);
            else strip(1, x, from, u, bias, sign, slope, y, to, room, j, 2 * left);
        }
}

/* --- gradients of the weights: CO channels x 9 taps of one input channel at a time --- */

INLINE vec halves(vec a, vec b) { /* sums of neighbours: first those of a, then those of b */
    const ints even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, even + 1);
}

/* The sums of 16 vectors, in one. */
INLINE vec totals(const vec *v) {
    vec a[8], b[4];
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) a[k] = halves(v[2 * k], v[2 * k + 1]);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) b[k] = halves(a[2 * k], a[2 * k + 1]);
    return halves(halves(b[0], b[1]), halves(b[2], b[3]));
}

/* The sums of `count` vectors, 32 at most. */
INLINE void sum_lanes(int count, const vec *acc, float *sums) {
    vec v[2 * LANES];
#pragma GCC unroll 32
    for (int k = 0; k < 2 * LANES; k++) v[k] = k < count ? acc[k] : (vec){0};
    vec both[2] = {totals(v), totals(v + LANES)};
    memcpy(sums, both, sizeof both);
}

/* Keeps a vector in a register. GCC would load it anew for every product. */
#define KEEP(x) __asm__("" : "+v"(x))

INLINE void weight_tile(int CO, int stride, const vec *g, const vec *x, Form to, long row, float *sums) {
    vec acc[WEIGHT_TILE * TAPS] = {{0}};
    long plane = plane_of(to);
    for (long j = 0; j < to.high; j++) {
        const vec *down = g + (j + 1) * row_of(to) + 1, *from = x + j * stride * row;
        for (long p = 0; p < to.wide; p++, from += stride)
#pragma GCC unroll 3
            for (int dy = 0; dy < 3; dy++)
#pragma GCC unroll 3
                for (int dx = 0; dx < 3; dx++) {
                    vec here = from[dy * row + dx];
                    KEEP(here);
#pragma GCC unroll 8
                    for (int c = 0; c < CO; c++) acc[c * TAPS + 3 * dy + dx] += down[c * plane + p] * here;
                }
    }
    sum_lanes(CO * TAPS, acc, sums);
}

INLINE void weight_tiles(int CO, const vec *g, const vec *x, Form to, long row, long stride, float *sums) {
    if (stride == 1) weight_tile(CO, 1, g, x, to, row, sums);
    else weight_tile(CO, 2, g, x, to, row, sums);
}

static void plain_weights(const vec *x, Form from, const vec *g, Form to, long stride, float *dw, float *db) {
    float sums[2 * LANES];
    long tiles = parts_of(to.channels, WEIGHT_TILE);
    for (long t = 0; t < tiles; t++) {
        long c0 = cut(to.channels, tiles, t), co = cut(to.channels, tiles, t + 1) - c0;
        const vec *top = g + c0 * plane_of(to);
        for (long i = 0; i < from.channels; i++) {
            const vec *plane = x + i * plane_of(from);
            if (co == 3) weight_tiles(3, top, plane, to, row_of(from), stride, sums);
            else if (co == 2) weight_tiles(2, top, plane, to, row_of(from), stride, sums);
            else weight_tiles(1, top, plane, to, row_of(from), stride, sums);
            for (long c = 0; c < co; c++)
                for (long tap = 0; tap < TAPS; tap++)
                    dw[((c0 + c) * from.channels + i) * TAPS + tap] += sums[c * TAPS + tap];
        }
        for (long c = 0; c < co; c++) {
            vec sum = {0};
            for (long k = 0; k < plane_of(to); k++) sum += top[c * plane_of(to) + k];
            for (int lane = 0; lane < LANES; lane++) db[c0 + c] += sum[lane];
        }
    }
}

/* --- the same, stride 1 and several channels: Winograd's F(3, 2) in each row, 12 products for 2 pixels, not 18 --- */

enum { ROW_POINTS = 4, ROW_TILE = 3 };

/* For CO x CI channels and the 3 rows of taps, the sums over all pairs of pixels: [CO, CI, 3]. `u` and `v` are planes of
   pairs, with `row` in a row. */
typedef void Pairs(const vec *u, long u_plane, const vec *v, long v_plane, long row, float *sums);

INLINE void pairs(int CO, int CI, const vec *u, long u_plane, const vec *v, long v_plane, long row, float *sums) {
    vec acc[3 * ROW_TILE * ROW_TILE] = {{0}};
    for (long n = 0; n < u_plane; n++) {
        vec g[ROW_TILE];
#pragma GCC unroll 3
        for (int c = 0; c < CO; c++) g[c] = u[c * u_plane + n];
#pragma GCC unroll 3
        for (int i = 0; i < CI; i++)
#pragma GCC unroll 3
            for (int dy = 0; dy < 3; dy++) {
                vec here = v[i * v_plane + dy * row + n];
                KEEP(here);
#pragma GCC unroll 3
                for (int c = 0; c < CO; c++) acc[(c * CI + i) * 3 + dy] += g[c] * here;
            }
    }
    sum_lanes(3 * CO * CI, acc, sums);
}

#define PAIRS(CO, CI)                                                                                            \
    static void pairs_##CO##_##CI(const vec *u, long u_plane, const vec *v, long v_plane, long row, float *sums) { \
        pairs(CO, CI, u, u_plane, v, v_plane, row, sums);                                                         \
    }
#define PAIRS_OF(CO) PAIRS(CO, 1) PAIRS(CO, 2) PAIRS(CO, 3)
PAIRS_OF(1) PAIRS_OF(2) PAIRS_OF(3)
#define PAIR_NAMES(CO) {pairs_##CO##_1, pairs_##CO##_2, pairs_##CO##_3}
static Pairs *const PAIR_TABLE[ROW_TILE][ROW_TILE] = {PAIR_NAMES(1), PAIR_NAMES(2), PAIR_NAMES(3)};

/* Vectors of room that `row_weights` needs. */
INLINE long row_room(Form from, Form to) {
    long pixels = (from.channels * (to.high + 2) + to.channels * to.high) * tiles_of(to);
    return ROW_POINTS * (pixels + parts_of(3 * from.channels * to.channels, LANES));
}

static void row_weights(const vec *x, Form from, const vec *g, Form to, float *dw, float *db, vec *room) {
    long in = from.channels, out = to.channels, row = tiles_of(to);
    long v_plane = (to.high + 2) * row, u_plane = to.high * row;
    vec *v = room, *u = v + ROW_POINTS * in * v_plane;
    float *m = (float *)(u + ROW_POINTS * out * u_plane); /* [points, out, in, 3] */
    for (long k = 0; k < in * (to.high + 2); k++) /* B^T d of each row of each channel, with its border */
        for (long t = 0; t < row; t++) {
            const vec *d = x + k * row_of(to) + 2 * t;
            vec *point = v + k * row + t;
            point[0] = d[0] - d[2];
            point[in * v_plane] = d[1] + d[2];
            point[2 * in * v_plane] = d[2] - d[1];
            point[3 * in * v_plane] = d[1] - (2 * t + 1 < to.wide ? d[3] : (vec){0});
        }
    for (long c = 0; c < out; c++) {
        vec sum = {0};
        for (long y = 0; y < to.high; y++)
            for (long t = 0; t < row; t++) { /* A g */
                const vec *d = g + c * plane_of(to) + (y + 1) * row_of(to) + 2 * t + 1;
                vec *point = u + c * u_plane + y * row + t, right = 2 * t + 1 < to.wide ? d[1] : (vec){0};
                point[0] = d[0];
                point[out * u_plane] = d[0] + right;
                point[2 * out * u_plane] = d[0] - right;
                point[3 * out * u_plane] = -right;
                sum += d[0] + right;
            }
        for (int lane = 0; lane < LANES; lane++) db[c] += sum[lane];
    }
    long out_parts = parts_of(out, ROW_TILE), in_parts = parts_of(in, ROW_TILE);
    for (long k = 0; k < ROW_POINTS; k++)
        for (long p = 0; p < out_parts; p++)
            for (long q = 0; q < in_parts; q++) {
                long c0 = cut(out, out_parts, p), co = cut(out, out_parts, p + 1) - c0;
                long i0 = cut(in, in_parts, q), ci = cut(in, in_parts, q + 1) - i0;
                float sums[2 * LANES];
                PAIR_TABLE[co - 1][ci - 1](u + (k * out + c0) * u_plane, u_plane, v + (k * in + i0) * v_plane, v_plane,
                                           row, sums);
                for (long c = 0; c < co; c++)
                    memcpy(m + 3 * ((k * out + c0 + c) * in + i0), sums + 3 * c * ci, 3 * ci * sizeof(float));
            }
    for (long k = 0, each = 3 * in * out; k < each; k++) { /* G^T m */
        float plus = (m[each + k] + m[2 * each + k]) / 2, minus = (m[each + k] - m[2 * each + k]) / 2;
        dw[3 * k] += m[k] + plus;
        dw[3 * k + 1] += minus;
        dw[3 * k + 2] += plus + m[3 * each + k];
    }
}

/* The gradients of weights and bias, from x and the gradient g of the sums before LeakyReLU. */
int weights(const float *x, const float *g, float *dw, float *db, long runs, long groups, long in, long out, long high,
            long wide, long stride) {
    Form from = {in, high, wide}, to = {out, (high + stride - 1) / stride, (wide + stride - 1) / stride};
    memset(dw, 0, runs * in * out * TAPS * sizeof(float));
    memset(db, 0, runs * out * sizeof(float));
    for (long r = 0; r < runs; r++)
        for (long k = r * groups; k < (r + 1) * groups; k++)
            plain_weights((const vec *)x + k * size_of(from), from, (const vec *)g + k * size_of(to), to, stride,
                          dw + r * in * out * TAPS, db + r * out);
    return 0;
}

/* --- stacks of convolutions, group by group, so that what passes between layers stays in the cache --- */

/* `depth` convolutions with stride 1; `widths` has the channels of the input and of every output. */
typedef struct {
    const float *const *weights, *const *biases;
    const float *slopes;
    const long *widths;
    long depth, runs, groups, high, wide;
} Stack;

INLINE Form form_of(const Stack *s, long layer) { return (Form){s->widths[layer], s->high, s->wide}; }
INLINE long weights_of(const Stack *s, long layer) { return s->widths[layer] * s->widths[layer + 1] * TAPS; }
INLINE long packed_of(const Stack *s, long layer) { return s->widths[layer] * s->widths[layer + 1] * POINTS; }

/* One layer's convolution, or with `turned` the gradient of its input. */
INLINE void pack_layer(const float *w, float *packed, long in, Form to, int turned) {
    if (is_for_winograd(in, to.channels)) pack_points(w, packed, in, to, turned);
    else pack(w, packed, in, to.channels, turned);
}

INLINE void weights_group(const vec *x, Form from, const vec *g, Form to, float *dw, float *db, vec *room) {
    if (is_for_winograd(from.channels, to.channels)) row_weights(x, from, g, to, dw, db, room);
    else plain_weights(x, from, g, to, 1, dw, db);
}

INLINE void layer_group(const vec *x, Form from, const float *packed, const float *bias, const vec *sign, float slope,
                        vec *y, Form to, vec *room) {
    if (is_for_winograd(from.channels, to.channels))
        winograd_group(x, from, packed, bias, sign, slope, y, to, room);
    else
        convolve_group(x, from, packed, bias, sign, slope, y, to, 1);
}

/* Memory that a thread keeps, because new pages cost more than the numbers written to them. */
static void *kept_memory(size_t size) {
    static _Thread_local void *memory;
    static _Thread_local size_t has;
    if (size > has) {
        free(memory);
        memory = aligned_alloc(sizeof(vec), (size + sizeof(vec) - 1) / sizeof(vec) * sizeof(vec));
        has = memory ? size : 0;
    }
    return memory;
}

/* Room for two activations of a group, for the points of a layer, and for the packed weights of all layers. */
typedef struct {
    vec *activations[2], *points;
    float *packed;
} Room;

static int room_of(const Stack *s, Room *room) {
    long size = 0, points = 0, weights = 0;
    for (long l = 0; l <= s->depth; l++) size = size_of(form_of(s, l)) > size ? size_of(form_of(s, l)) : size;
    for (long l = 0; l < s->depth; l++) {
        Form from = form_of(s, l), to = form_of(s, l + 1);
        long tiles = winograd_room(from, to), rows = row_room(from, to);
        points = tiles > points ? tiles : points;
        points = rows > points ? rows : points;
        weights += packed_of(s, l);
    }
    vec *memory = kept_memory((2 * size + points) * sizeof(vec) + weights * sizeof(float));
    *room = (Room){{memory, memory + size}, memory + 2 * size, (float *)(memory + 2 * size + points)};
    return memory != NULL;
}

/* All outputs of a stack, and the sum of the last one and x. What is NULL is not kept. Returns 1 if there is no memory. */
int stack_forward(const float *x, const float *const *weights, const float *const *biases, const float *slopes,
                  float *const *outputs, float *sum, const long *widths, long depth, long runs, long groups, long high,
                  long wide) {
    Stack s = {weights, biases, slopes, widths, depth, runs, groups, high, wide};
    Room room;
    if (!room_of(&s, &room)) return 1;
    for (long r = 0; r < runs; r++) {
        float *packed = room.packed;
        for (long l = 0; l < depth; packed += packed_of(&s, l), l++)
            pack_layer(weights[l] + r * weights_of(&s, l), packed, widths[l], form_of(&s, l + 1), 0);
        for (long g = r * groups; g < (r + 1) * groups; g++) {
            const vec *first = (const vec *)x + g * size_of(form_of(&s, 0)), *from = first;
            packed = room.packed;
            for (long l = 0; l < depth; packed += packed_of(&s, l), l++) {
                Form to = form_of(&s, l + 1);
                vec *y = outputs[l] ? (vec *)outputs[l] + g * size_of(to) : room.activations[l % 2];
                const float *bias = biases[l] + r * widths[l + 1];
                layer_group(from, form_of(&s, l), packed, bias, NULL, slopes[l], y, to, room.points);
                from = y;
            }
            if (sum)
                for (long k = 0, size = size_of(form_of(&s, 0)); k < size; k++)
                    ((vec *)sum)[g * size + k] = first[k] + from[k];
        }
    }
    return 0;
}

/* The gradients of all weights and biases, and of the input if `dx` is not NULL, from that of the last output, or with
   `residual` from that of the sum of the input and the last output. */
int stack_backward(const float *x, const float *const *weights, const float *slopes, float *const *outputs,
                   const float *gradient, float *const *dw, float *const *db, float *dx, int residual, const long *widths,
                   long depth, long runs, long groups, long high, long wide) {
    Stack s = {weights, NULL, slopes, widths, depth, runs, groups, high, wide};
    Room room;
    if (!room_of(&s, &room)) return 1;
    for (long l = 0; l < depth; l++) {
        memset(dw[l], 0, runs * weights_of(&s, l) * sizeof(float));
        memset(db[l], 0, runs * widths[l + 1] * sizeof(float));
    }
    for (long r = 0; r < runs; r++) {
        float *ends = room.packed;
        for (long l = 0; l < depth; ends += packed_of(&s, l), l++)
            pack_layer(weights[l] + r * weights_of(&s, l), ends, widths[l + 1], form_of(&s, l), 1);
        for (long g = r * groups; g < (r + 1) * groups; g++) {
            long size = size_of(form_of(&s, depth));
            const vec *last = (const vec *)outputs[depth - 1] + g * size, *given = (const vec *)gradient + g * size;
            vec *now = room.activations[0], *next = room.activations[1];
            for (long k = 0; k < size; k++) now[k] = given[k] * slope_of(last[k], slopes[depth - 1]);
            const float *packed = ends;
            for (long l = depth - 1; l >= 0; l--) {
                Form from = form_of(&s, l), to = form_of(&s, l + 1);
                const vec *in = (const vec *)(l ? outputs[l - 1] : x) + g * size_of(from);
                float *of_w = dw[l] + r * weights_of(&s, l), *of_b = db[l] + r * widths[l + 1];
                weights_group(in, from, now, to, of_w, of_b, room.points);
                packed -= packed_of(&s, l);
                if (l)
                    layer_group(now, to, packed, NULL, in, slopes[l - 1], next, from, room.points);
                else if (dx)
                    layer_group(now, to, packed, NULL, NULL, 1.0f, (vec *)dx + g * size_of(from), from, room.points);
                vec *free_one = now;
                now = next, next = free_one;
            }
            if (dx && residual)
                for (long k = 0; k < size; k++) ((vec *)dx)[g * size + k] += given[k];
        }
    }
    return 0;
}

/* --- the cell of a convolutional LSTM, see `layers.lstm_step` --- */

/* e^x by the polynomial of Cephes (Moshier, 1992), exactly 1 at 0. */
INLINE vec exponential(vec x) {
    const vec shift = (vec){0} + 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    const float p[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, .5f};
    ints high = x > 87.0f, low = x < -87.0f; /* NaN is neither, and stays */
    x = (vec)((high & (ints)((vec){0} + 87.0f)) | (low & (ints)((vec){0} - 87.0f)) | (~(high | low) & (ints)x));
    vec rounded = x * 1.44269504f + shift, n = rounded - shift;
    vec r = x - n * .693359375f + n * 2.12194440e-4f, sum = (vec){0} + p[0];
    for (int k = 1; k < 6; k++) sum = sum * r + p[k];
    ints power = ((ints)rounded - (ints)shift + 127) << 23;
    return (sum * r * r + r + 1.0f) * (vec)power;
}

INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + exponential(-x)); }

/* tanh, exactly 0 at 0. Near 0 the difference would have only absolute precision, so Cephes' odd polynomial is used. */
INLINE vec tangent(vec x) {
    const float p[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f,
                       -3.33332819422e-1f};
    ints near = (x < .625f) & (x > -.625f); /* NaN is not */
    vec z = x * x, sum = (vec){0} + p[0], far = 2.0f * sigmoid(2.0f * x) - 1.0f;
    for (int k = 1; k < 5; k++) sum = sum * z + p[k];
    return (vec)((near & (ints)(sum * z * x + x)) | (~near & (ints)far));
}

/* The new c and h [blocks, size], and the activations [blocks, 4, size] of the gates input, forget, cell, output.
   `more` is added to the gates; without `before`, the state before is zero. */
int lstm_forward(const float *gates, const float *more, const float *before, float remember, float *activations,
                 float *c, float *h, long blocks, long size) {
    for (long b = 0; b < blocks; b++)
        for (long k = 0; k < size; k++) {
            long at = 4 * b * size + k, here = b * size + k;
            vec x[4], *a = (vec *)activations + at;
            for (int gate = 0; gate < 4; gate++) {
                x[gate] = ((const vec *)gates)[at + gate * size];
                if (more) x[gate] += ((const vec *)more)[at + gate * size];
            }
            vec i = sigmoid(x[0]), f = sigmoid(x[1] + remember), g = tangent(x[2]), o = sigmoid(x[3]), now = i * g;
            if (before) now += f * ((const vec *)before)[here];
            a[0] = i, a[size] = f, a[2 * size] = g, a[3 * size] = o;
            ((vec *)c)[here] = now, ((vec *)h)[here] = o * tangent(now);
        }
    return 0;
}

/* The gradients with respect to the gates and, if it is not NULL, to `before`; `dc` and `dh` are those with respect to the
   new c and h. */
int lstm_backward(const float *activations, const float *before, const float *c, const float *dc, const float *dh,
                  float *dgates, float *dbefore, long blocks, long size) {
    for (long b = 0; b < blocks; b++)
        for (long k = 0; k < size; k++) {
            long at = 4 * b * size + k, here = b * size + k;
            const vec *a = (const vec *)activations + at;
            vec i = a[0], f = a[size], g = a[2 * size], o = a[3 * size], *d = (vec *)dgates + at;
            vec t = tangent(((const vec *)c)[here]), up = ((const vec *)dh)[here];
            vec of_c = ((const vec *)dc)[here] + up * o * (1.0f - t * t);
            vec old = before ? ((const vec *)before)[here] : (vec){0};
            d[0] = of_c * g * i * (1.0f - i);
            d[size] = of_c * old * f * (1.0f - f);
            d[2 * size] = of_c * i * (1.0f - g * g);
            d[3 * size] = up * t * o * (1.0f - o);
            if (dbefore) ((vec *)dbefore)[here] = of_c * f;
        }
    return 0;
}

/* --- random numbers: Philox4x32-10, see `philox.py` --- */

/* The counters (lane + 0 .. 15, block, step, stream), and their four words for each lane. */
static void philox16(uint32_t lane, uint32_t block, uint32_t step, uint32_t stream, int64_t seed,
                     uint32_t words[4][LANES]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)((uint64_t)seed >> 32);
    uint32_t *c0 = words[0], *c1 = words[1], *c2 = words[2], *c3 = words[3];
    for (int l = 0; l < LANES; l++) {
        c0[l] = lane + l;
        c1[l] = block;
        c2[l] = step;
        c3[l] = stream;
    }
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9, k1 += 0xBB67AE85)
        for (int l = 0; l < LANES; l++) {
            uint64_t p0 = (uint64_t)c0[l] * 0xD2511F53, p1 = (uint64_t)c2[l] * 0xCD9E8D57;
            c0[l] = (uint32_t)(p1 >> 32) ^ c1[l] ^ k0;
            c1[l] = (uint32_t)p1;
            c2[l] = (uint32_t)(p0 >> 32) ^ c3[l] ^ k1;
            c3[l] = (uint32_t)p0;
        }
}

/* `count` words of every lane, [runs, lanes, count]. */
int philox(const int64_t *seeds, const int64_t *steps, uint32_t stream, long runs, long lanes, long count, int64_t *out) {
    uint32_t words[4][LANES];
    for (long r = 0; r < runs; r++)
        for (long lane = 0; lane < lanes; lane += LANES)
            for (long first = 0; first < count; first += 4) {
                philox16(lane, first / 4, steps[r], stream, seeds[r], words);
                for (long l = 0; l < LANES && lane + l < lanes; l++)
                    for (long k = 0; k < 4 && first + k < count; k++)
                        out[((r * lanes) + lane + l) * count + first + k] = words[k][l];
            }
    return 0;
}

/* Dropout factors, 0 or `kept`, for [channels, high, wide] of every board, into the blocks that begin with group `begin`
   of `all`: two of 16 random bits per word, the low half first. */
int dropout(const int64_t *seeds, const int64_t *steps, uint32_t stream, long runs, long groups, long begin, long all,
             long channels, long high, long wide, uint32_t dropped, float kept, float *out) {
    Form form = {channels, high, wide};
    long count = channels * high * wide, area = high * wide;
    uint32_t words[4][LANES];
    for (long r = 0; r < runs; r++)
        for (long g = 0; g < groups; g++) {
            float *mask = out + (r * all + begin + g) * size_of(form) * LANES;
            clear_border((vec *)mask, form);
            for (long n = 0; n < count; n++) {
                if (n % 8 == 0) philox16(g * LANES, n / 8, steps[r], stream, seeds[r], words);
                long c = n / area, y = n % area / wide, x = n % wide;
                float *at = mask + (c * plane_of(form) + (y + 1) * row_of(form) + x + 1) * LANES;
                for (int l = 0; l < LANES; l++) {
                    uint32_t word = words[n / 2 % 4][l], half = n % 2 ? word >> 16 : word & 0xFFFF;
                    at[l] = half >= dropped ? kept : 0.0f;
                }
            }
        }
    return 0;
}
