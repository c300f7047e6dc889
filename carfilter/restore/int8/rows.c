/* `fast` and `best` in int8 on CPUs: all layers over a few rows at a time, so that nothing between
 * them leaves the core's cache. carfilter/restore/int8/rows.py packs the weights and calls it;
 * carfilter/restore/int8/convolutions.py computes the same with torch's convolutions.
 *
 * hatch_build.py compiles it once for each kind of CPU; one of two headers has the convolutions.
 */
#include "exported.h"

#ifndef CHANNELS
#define CHANNELS 48 /* rows_narrow.c has another number */
#endif
/* What a library exports bears that number, see rows.py. */
#define JOINED(name, channels) name##_##channels
#define WITH(name, channels) JOINED(name, channels)
#define NAMED(name) WITH(name, CHANNELS)

enum {
    ROWS = 3,         /* of its output that a layer keeps for the next one */
    SIDE = 8,         /* cells of a macroblock */
    MOST_WIDTH = 640, /* cells that are worked on side by side: their rows fit into 2 MB */
    MOST_MAPS = 8,
    MOST_CELL = 40,   /* bytes of a cell of the first layer */
    NO_VALUE = 128,   /* the code of zero in the first layer */
    UNKNOWN = 0,      /* the code of a QP that is not known */
};

typedef struct {
    int32_t layers;  /* head, body and tail */
    int32_t maps;    /* the frame and its references */
    int32_t inputs;  /* bytes of a cell of the first layer */
    int32_t contrast;
    int32_t head_bytes, body_bytes; /* of the weights of a layer */
    const int8_t *weights;          /* in the order of their use */
    const int32_t *offset; /* [layers][CHANNELS]: of sums, where the code of zero is not zero */
    const int32_t *equal;  /* [maps][CHANNELS]: what one that is as the frame is adds to a sum */
    const float *scale;    /* [layers][CHANNELS]: what a sum is worth */
    const float *bias;     /* [layers][CHANNELS] */
    const float *rescale;  /* [layers]: to codes of the output */
    const float *gates;    /* [256] by QP code */
    const uint8_t *codes;  /* [256] of the QPs */
    float skip;            /* what a code of the head is worth */
} Network;

/* Of a frame, then of each of its references; one that is missing is the frame itself. */
typedef struct {
    const uint8_t *luma[MOST_MAPS]; /* rows of 2 x width samples */
    const int16_t *qp[MOST_MAPS];   /* of each macroblock, below zero where unknown; or none */
    int64_t luma_row[MOST_MAPS], qp_row[MOST_MAPS];
    uint8_t *restored;
    int64_t restored_row;
    int32_t height, width; /* cells */
    float amount;          /* grey levels of a correction of one */
} Picture;

typedef struct Looked Looked; /* of the header that has the convolutions */

/* One strip of a picture on its way through the layers. */
typedef struct {
    const Network *network;
    const Picture *picture;
    int left, width;        /* cells of the picture, with what the layers see around */
    int first, last;        /* columns that are wanted, counted from `left` */
    int head_rows;          /* of its output that the head keeps, for the skip as well */
    uint8_t *input[ROWS];   /* of the first layer */
    uint8_t *apart[ROWS];   /* the maps that are not as the frame is around each SIDE cells, a bit each */
    Looked *looked;         /* [256] */
    uint8_t *edge_input;    /* a row of it outside the picture */
    uint8_t *edge;          /* the like of the others */
    uint8_t *rows;          /* of all layers but the tail, the head's first */
    size_t pitch;           /* bytes of such a row */
    int32_t *sums;          /* of the tail */
} Strip;

#define INLINE __attribute__((always_inline)) static inline

/* Arrays of vectors are registers once the loops over them are unrolled. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_8 _Pragma("clang loop unroll_count(8)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_8 _Pragma("GCC unroll 8")
#endif

static const int8_t *weights_of(const Network *network, int layer) {
    if (!layer) return network->weights;
    return network->weights + network->head_bytes + (layer - 1) * (int64_t)network->body_bytes;
}

#if defined __AMX_INT8__ || defined __AMXINT8__ /* GCC, Clang 14 */
#include "tiles.h"
#else
#include "dots.h"
#endif

INLINE int clamped(int value) {
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

/* Write codes of contrast x (reference - luma), a sample each. */
static void subtract(
    const uint8_t *reference, const uint8_t *luma, uint8_t *out, int samples, int contrast
) {
    const int16_t by = (int16_t)contrast;
    for (int x = 0; x < samples; x++) {
        const int16_t apart = (int16_t)(reference[x] - luma[x]);
        const int16_t code = (int16_t)(apart * by + NO_VALUE);
        out[x] = (uint8_t)clamped(code);
    }
}

/* Write the samples of two rows cell by cell, `step` bytes apart. */
static void put_cells(
    const uint8_t *upper, const uint8_t *lower, uint8_t *out, int width, int step
) {
    for (int x = 0; x < width; x++, out += step) {
        uint16_t above, below;
        memcpy(&above, upper + 2 * x, 2);
        memcpy(&below, lower + 2 * x, 2);
        const uint32_t cell = above | (uint32_t)below << 16; /* little-endian, as all we run on */
        memcpy(out, &cell, sizeof cell);
    }
}

/* The code of the QP of a macroblock; columns and rows are counted in cells. */
INLINE uint8_t qp_code(const Network *network, const Picture *picture, int map, int y, int x) {
    if (!picture->qp[map]) return UNKNOWN;
    const int16_t qp = picture->qp[map][y / SIDE * picture->qp_row[map] + x / SIDE];
    return qp < 0 ? UNKNOWN : network->codes[clamped(qp)];
}

/* Fill row y of the picture as the first layer takes it: cells of the frame and of each reference,
 * then the QP codes of all of them. */
static void fill(const Strip *strip, int y) {
    const Network *network = strip->network;
    const Picture *picture = strip->picture;
    const int step = network->inputs, width = strip->width, maps = network->maps;
    const int64_t at = 2 * (int64_t)strip->left;
    const uint8_t *upper = picture->luma[0] + 2 * y * picture->luma_row[0] + at;
    const uint8_t *lower = upper + picture->luma_row[0];
    uint8_t apart[2][2 * (MOST_WIDTH + 4 * SIDE * SIDE)];
    uint8_t *out = strip->input[y % ROWS] + step; /* right of the position left of the first */
    uint8_t *marks = strip->apart[y % ROWS];
    memset(marks, 0, (size_t)(width + SIDE - 1) / SIDE + 1);
    put_cells(upper, lower, out, width, step);
    for (int map = 1; map < maps; map++) {
        if (picture->luma[map] == picture->luma[0]) continue; /* the codes of zero lie there */
        const int64_t pitch = picture->luma_row[map];
        const uint8_t *row = picture->luma[map] + 2 * y * pitch + at;
        fetch_early(row + 2 * pitch, 2 * (size_t)width);
        fetch_early(row + 3 * pitch, 2 * (size_t)width);
        subtract(row, upper, apart[0], 2 * width, network->contrast);
        subtract(row + pitch, lower, apart[1], 2 * width, network->contrast);
        for (int i = 0; i < 2; i++) memset(apart[i] + 2 * width, NO_VALUE, 2 * SIDE);
        mark_apart(apart[0], apart[1], width, map, marks);
        put_cells(apart[0], apart[1], out + 4 * map, width, step);
    }
    uint8_t codes[MOST_MAPS] = {0};
    for (int x = 0; x < width; x += SIDE) {
        const int end = width - x < SIDE ? width - x : SIDE;
        for (int map = 0; map < maps; map++)
            codes[map] = qp_code(network, picture, map, y, strip->left + x);
        uint8_t *at = out + (int64_t)x * step + 4 * maps; /* with what fills a cell up */
        if (step - 4 * maps == 8)
            for (int i = 0; i < end; i++, at += step) memcpy(at, codes, 8);
        else
            for (int i = 0; i < end; i++, at += step) memcpy(at, codes, 4);
    }
    memset(out + (int64_t)width * step, NO_VALUE, step);
}

typedef int32_t FourInts __attribute__((vector_size(16)));
typedef float Four __attribute__((vector_size(16)));

INLINE FourInts four(const int32_t *ints) {
    FourInts result;
    memcpy(&result, ints, sizeof result);
    return result;
}

INLINE void add_row(
    const uint8_t *luma, const float *change, float amount, int samples, uint8_t *out
) {
    for (int i = 0; i < samples; i++)
        out[i] = (uint8_t)clamped((int)__builtin_rintf(__builtin_fmaf(change[i], amount, luma[i])));
}

/* Add the corrections of row y, as far as the QP asks for them, and write the samples wanted. */
static void restore(const Strip *strip, int y) {
    const Network *network = strip->network;
    const Picture *picture = strip->picture;
    const int tail = network->layers - 1;
    Four scale, bias;
    memcpy(&scale, network->scale + CHANNELS * tail, sizeof scale);
    memcpy(&bias, network->bias + CHANNELS * tail, sizeof bias);
    float upper[2 * (MOST_WIDTH + SIDE)], lower[2 * (MOST_WIDTH + SIDE)]; /* samples */
    for (int x = strip->first; x < strip->last; x += SIDE) {
        const float gate = network->gates[qp_code(network, picture, 0, y, strip->left + x)];
        for (int i = x; i < x + SIDE; i++) {
            const int32_t *sums = strip->sums + i * 12;
            const FourInts sum = four(sums) + four(sums + 16) + four(sums + 32);
            const Four change = (__builtin_convertvector(sum, Four) * scale + bias) * gate;
            memcpy(upper + 2 * (i - strip->first), &change, 8);
            memcpy(lower + 2 * (i - strip->first), (const char *)&change + 8, 8);
        }
    }
    const int64_t row = picture->luma_row[0], out_row = picture->restored_row;
    const int column = strip->left + strip->first, samples = 2 * (strip->last - strip->first);
    const uint8_t *luma = picture->luma[0] + 2 * y * row + 2 * column;
    uint8_t *out = picture->restored + 2 * y * out_row + 2 * column;
    add_row(luma, upper, picture->amount, samples, out);
    add_row(luma + row, lower, picture->amount, samples, out + out_row);
}

/* Row y of what a layer gives, from the position left of the first. */
static uint8_t *row_of(const Strip *strip, int layer, int y) {
    const int row = layer ? strip->head_rows + ROWS * (layer - 1) + y % ROWS : y % strip->head_rows;
    return strip->rows + row * strip->pitch;
}

static void run_layer(const Strip *strip, int layer, int y) {
    const Network *network = strip->network;
    const int height = strip->picture->height, width = strip->width;
    const uint8_t *in[3];
    for (int i = 0; i < 3; i++) {
        const int row = y - 1 + i, inside = row >= 0 && row < height;
        if (layer) in[i] = inside ? row_of(strip, layer - 1, row) : strip->edge;
        else in[i] = inside ? strip->input[row % ROWS] : strip->edge_input;
    }
    if (layer == network->layers - 1) {
        sum_tail(network, in, strip->sums, width);
        restore(strip, y);
        return;
    }
    const uint8_t *skip = layer == network->layers - 2 ? row_of(strip, 0, y) + CELL : 0;
    uint8_t *out = row_of(strip, layer, y) + CELL;
    convolve(strip, layer, y, in, out, skip);
    memset(out + (size_t)width * CELL, 0, CELL); /* beyond the last position there is nothing */
}

/* Rows top to bottom of a strip: each layer as soon as the one before it is a row ahead. */
static void run_strip(Strip *strip, int top, int bottom) {
    const Network *network = strip->network;
    const int height = strip->picture->height, last = network->layers - 1;
    int filled = top - last - 1 > 0 ? top - last - 1 : 0;
    for (int time = top - last; time < bottom + last; time++) {
        for (int layer = 0; layer <= last; layer++) {
            const int y = time - layer, around = last - layer;
            if (y >= 0 && y >= top - around && y < height && y < bottom + around) {
                for (; !layer && filled <= y + 1 && filled < height; filled++)
                    fill(strip, filled);
                run_layer(strip, layer, y);
            }
        }
    }
}

/* By what a library of another version is told from this one. */
EXPORTED int NAMED(carfilter_rows_sizes)(void) {
    return (int)(sizeof(Network) << 16 | sizeof(Picture));
}

/* Restore the rows of cells top to bottom of a picture; 0, or -1 without memory. */
EXPORTED int NAMED(carfilter_rows_restore)(
    const Network *network, const Picture *picture, int top, int bottom
) {
    const int around = (network->layers + SIDE - 1) / SIDE * SIDE;
    const int count = (picture->width + MOST_WIDTH - 1) / MOST_WIDTH;
    const int side = ((picture->width + count - 1) / count + SIDE - 1) / SIDE * SIDE;
    const int most = (side + 2 * around + BLOCK - 1) / BLOCK * BLOCK;
    const size_t pitch = (size_t)(most + 4 * BLOCK) * CELL;
    const size_t input = ((size_t)(most + 2) * network->inputs + 256) / 64 * 64;
    const int head_rows = network->layers, rows = head_rows + ROWS * (network->layers - 2) + 1;
    const size_t sums = (size_t)(most + 4 * BLOCK) * 12 * sizeof(int32_t);
    const size_t blocks = (size_t)(most / SIDE + 2), looked = sizeof(Looked) << network->maps;
    void *block = malloc(64 + rows * pitch + (ROWS + 1) * input + sums + looked + ROWS * blocks);
    if (!block) return -1;
    uint8_t *memory = (uint8_t *)(((uintptr_t)block + 63) / 64 * 64); /* of a cache line */
    memset(memory, 0, pitch);
    for (int i = 1; i < rows; i++) memset(memory + i * pitch, 0, CELL); /* left of the first */
    Strip strip = {.network = network, .picture = picture, .head_rows = head_rows, .pitch = pitch};
    strip.edge = memory;
    strip.rows = memory + pitch;
    strip.edge_input = memory + rows * pitch;
    memset(strip.edge_input, NO_VALUE, (ROWS + 1) * input);
    for (int i = 0; i < ROWS; i++) strip.input[i] = strip.edge_input + (i + 1) * input;
    strip.sums = (int32_t *)(strip.edge_input + (ROWS + 1) * input);
    strip.looked = (Looked *)((char *)strip.sums + sums);
    memset(strip.looked, 0, looked);
    for (int i = 0; i < ROWS; i++) strip.apart[i] = (uint8_t *)strip.looked + looked + i * blocks;
    begin();
    for (int start = 0; start < picture->width; start += side) {
        const int stop = start + side < picture->width ? start + side : picture->width;
        strip.left = start - around > 0 ? start - around : 0;
        const int right = stop + around < picture->width ? stop + around : picture->width;
        strip.width = right - strip.left;
        strip.first = start - strip.left;
        strip.last = stop - strip.left;
        run_strip(&strip, top, bottom);
    }
    end();
    free(block);
    return 0;
}
