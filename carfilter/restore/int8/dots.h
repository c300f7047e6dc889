/* Convolutions of rows.c by dot products, on CPUs without matrix units.
 *
 * A vector holds the sums of several outputs; the inputs of a position are spread over it. Three
 * neighbouring positions are one run of bytes, so that a row of a kernel is one long dot product.
 */
#ifdef __aarch64__
#include "neon.h"
#else
#include "lanes.h"
#endif

enum {
    CELL = CHANNELS, /* bytes of a position */
    BLOCK = 8,       /* positions whose sums are kept at a time */
};

/* Nothing has to be asked for. */
EXPORTED int NAMED(carfilter_rows_start)(void) {
    return 0;
}

static void begin(void) {}

static void end(void) {}

/* Bytes of a row of a kernel; the first of them begins with a group of four. */
typedef struct {
    uint8_t from, to;
} Run;

/* Fill sums of `outputs` each with an offset and the dot products of the three rows of a kernel.
 *
 * in: of each row, the bytes of the first position; those of the next follow `cell` bytes later.
 * bytes: of a row of the kernel. runs: those of them that are looked at. */
INLINE void sum_products(
    const int8_t *weights, const uint8_t *const in[3], int cell, int bytes, const Run *runs,
    int count, const int32_t *offset, int32_t *sums, int outputs
) {
    const int groups = outputs / LANES;
    Lanes sum[POSITIONS][CHANNELS / LANES];
    UNROLL for (int g = 0; g < groups; g++)
        UNROLL for (int p = 0; p < POSITIONS; p++) sum[p][g] = LOAD(offset + g * LANES);
    for (int row = 0; row < 3; row++, weights += bytes / 4 * outputs * STEP) {
        for (int i = 0; i < count; i++) {
            const uint8_t *at = in[row] + runs[i].from, *end = in[row] + runs[i].to;
            const int8_t *by = weights + runs[i].from / 4 * outputs * STEP;
            for (; at < end; at += 4, by += outputs * STEP) {
                /* Beside the sums the fewer of both, inputs and weights, stay in registers: there
                 * are not enough for the more. */
                if (POSITIONS > groups) {
                    UNROLL for (int p = 0; p < POSITIONS; p++) {
                        const Spread a = spread(at + p * cell);
                        UNROLL for (int g = 0; g < groups; g++)
                            sum[p][g] = dot(sum[p][g], a, by + g * LANES * STEP);
                    }
                    continue;
                }
                Spread a[POSITIONS];
                UNROLL for (int p = 0; p < POSITIONS; p++) a[p] = spread(at + p * cell);
                UNROLL for (int g = 0; g < groups; g++)
                    UNROLL for (int p = 0; p < POSITIONS; p++)
                        sum[p][g] = dot(sum[p][g], a[p], by + g * LANES * STEP);
            }
        }
    }
    UNROLL for (int p = 0; p < POSITIONS; p++)
        UNROLL for (int g = 0; g < groups; g++) STORE(sums + p * outputs + g * LANES, sum[p][g]);
}

typedef int32_t Sums __attribute__((vector_size(4 * LANES)));

INLINE Floats all(float value) {
    return value - (Floats){0};
}

/* Bring the sums of some positions to uint8, which is the ReLU as well. skip: what is added. */
INLINE void finish_all(
    const Network *network, int layer, const int32_t *restrict sums, int count,
    const uint8_t *skip, uint8_t *restrict out
) {
    const float *scale = network->scale + CHANNELS * layer;
    const float *bias = network->bias + CHANNELS * layer;
    const Floats rescale = all(network->rescale[layer]), skip_scale = all(network->skip);
    for (int i = 0; i < count; i++, sums += CHANNELS, out += CELL) {
        UNROLL for (int c = 0; c < CHANNELS; c += LANES) {
            Floats by, more;
            memcpy(&by, scale + c, sizeof by);
            memcpy(&more, bias + c, sizeof more);
            Floats value = __builtin_convertvector((Sums)LOAD(sums + c), Floats) * by + more;
            if (skip) value = fused(numbers(skip + i * CELL + c), skip_scale, value);
            put_codes(value * rescale, out + c);
        }
    }
}

static void finish(
    const Network *network, int layer, const int32_t *sums, int count, const uint8_t *skip,
    uint8_t *out
) {
    if (skip) finish_all(network, layer, sums, count, skip, out);
    else finish_all(network, layer, sums, count, 0, out);
}

#ifdef WORDS
#include "winograd.h"
#endif
#include "head.h"

/* Convolve a row of positions to CHANNELS.
 *
 * in: three rows, each from the position left of the first. skip: what is added to the layer. */
static void convolve(
    const Strip *strip, int layer, int y, const uint8_t *const in[3], uint8_t *out,
    const uint8_t *skip
) {
    const Network *network = strip->network;
    const int width = strip->width;
    if (!layer) {
        convolve_head(strip, y, in, out);
        return;
    }
#ifdef WORDS
    convolve_by_tiles(network, layer, in, out, skip, width);
#else
    int cell = CELL;
    __asm__("" : "+r"(cell)); /* GCC 12 sends sums to memory and back where it knows that number */
    const Run whole = {0, (uint8_t)(3 * cell)};
    const int32_t *offset = network->offset + CHANNELS * layer;
    int32_t sums[BLOCK * CHANNELS] __attribute__((aligned(64)));
    const int8_t *weights = weights_of(network, layer);
    for (int x = 0; x < width; x += BLOCK) {
        for (int i = 0; i < BLOCK; i += POSITIONS) {
            const int64_t from = (int64_t)(x + i) * cell;
            const uint8_t *const a[3] = {in[0] + from, in[1] + from, in[2] + from};
            sum_products(weights, a, cell, 3 * cell, &whole, 1, offset, sums + i * CHANNELS, CHANNELS);
        }
        const int64_t at = (int64_t)x * CELL;
        finish(network, layer, sums, BLOCK, skip ? skip + at : 0, out + at);
    }
#endif
}

/* The tail: sums of each of the three columns of its kernel, [position][column][4 channels]. */
static void sum_tail(
    const Network *network, const uint8_t *const in[3], int32_t *sums, int width
) {
    enum { WIDE = 16 }; /* outputs; the last four are zero, and overwritten by what follows */
    const int32_t *offset = network->offset + CHANNELS * (network->layers - 1);
    int32_t own[POSITIONS * WIDE];
    const Run whole = {0, CELL};
    const int8_t *weights = weights_of(network, network->layers - 1);
    for (int x = 0; x < width + 2; x += POSITIONS) {
        const int64_t from = (int64_t)x * CELL;
        const uint8_t *const a[3] = {in[0] + from, in[1] + from, in[2] + from};
        sum_products(weights, a, CELL, CELL, &whole, 1, offset, own, WIDE);
        for (int p = 0; p < POSITIONS; p++)
            memcpy(sums + (x + p) * 12, own + p * WIDE, 12 * sizeof(int32_t));
    }
}
