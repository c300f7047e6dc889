/* `fast` and `best` in int8 on Intel's matrix units (AMX): all layers over a few rows at a time, so
 * that nothing between them leaves the core's cache. carfilter/amx.py packs the weights and calls
 * it; carfilter/int8.py computes the same with torch's convolutions.
 *
 * Instructions: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBUSD.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    BLOCK = 16,       /* positions that a tile holds */
    GROUPS = 3,       /* of 16 channels */
    CELL = 64,        /* bytes of a position: 48 channels, and 16 that are zero */
    TILE = 1024,      /* bytes of 64 x 16 weights */
    TAIL_TILE = 768,  /* of 64 x 12 */
    ROWS = 3,         /* of its output that a layer keeps for the next one */
    SIDE = 8,         /* cells of a macroblock */
    MOST_WIDTH = 640, /* cells that are worked on side by side: their rows fit into 2 MB */
    NO_VALUE = 128,   /* the code of zero in the first layer */
};

typedef struct {
    int32_t layers;  /* head, body and tail */
    int32_t maps;    /* the frame and its references */
    int32_t inputs;  /* bytes of a cell of the first layer */
    int32_t contrast;
    const int8_t *weights; /* tiles in the order of their use */
    const int32_t *offset; /* [48] for the head, whose code of zero is not zero */
    const float *scale;    /* [layers][48]: what a sum is worth */
    const float *bias;     /* [layers][48] */
    const float *rescale;  /* [layers]: to codes of the output */
    const float *gates;    /* [256] by QP code */
    float skip;            /* what a code of the head is worth */
} Network;

typedef struct {
    const uint8_t *luma;       /* rows of 2 x width samples */
    const uint8_t *references; /* such planes; or none */
    const uint8_t *qp;         /* a code for each macroblock of each map */
    uint8_t *restored;
    int64_t luma_row, reference_row, reference_plane, qp_row, qp_plane, restored_row;
    int32_t height, width; /* cells */
    float amount;          /* grey levels of a correction of one */
} Picture;

/* One strip of a picture on its way through the layers. */
typedef struct {
    const Network *network;
    const Picture *picture;
    int left, width;        /* cells of the picture, with what the layers see around */
    int first, last;        /* columns that are wanted, counted from `left` */
    int head_rows;          /* of its output that the head keeps, for the skip as well */
    uint8_t *input[ROWS];   /* of the first layer */
    uint8_t *edge_input;    /* a row of it outside the picture */
    uint8_t *edge;          /* the like of the others */
    uint8_t *rows;          /* of all layers but the tail, the head's first */
    size_t pitch;           /* bytes of such a row */
    int32_t *sums;          /* of the tail */
} Strip;

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} TileConfig;

#define INLINE __attribute__((always_inline)) static inline

/* GCC's tile loads do not say that they read memory: without this, stores may follow them. */
#define STORED() __asm__ volatile("" ::: "memory")

/* Ask Linux for the matrix units, once a process; 0 if it grants them. */
int carfilter_amx_start(void) {
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0 ? 0 : -1;
}

/* Three sums, a tile of positions and one of weights: no more, since a core whose other hyperthread
 * computes with tiles too has few to rename, and takes twice as long with eight. */
static void configure(int outputs) {
    TileConfig config __attribute__((aligned(64)));
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 5; i++) {
        config.rows[i] = 16;
        config.bytes[i] = i == 3 ? 64 : 4 * outputs;
    }
    STORED();
    _tile_loadconfig(&config);
}

typedef struct {
    __m512 scale[GROUPS], bias[GROUPS], skip, rescale;
    __m512i pick[GROUPS]; /* makes each byte of a group, in finish()'s order, a number */
} Finish;

INLINE __m512 values(const int32_t *sums, __m512 scale, __m512 bias) {
    const __m512 worth = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), scale);
    return _mm512_add_ps(worth, bias);
}

/* Bring sums [GROUPS][BLOCK][16] of some positions to uint8, which is the ReLU as well. In each
 * quarter of a position lie four channels of each group, then four zeros: how packs leave them. */
INLINE void finish(
    const int32_t *sums, const Finish *by, uint8_t *out, const uint8_t *skip, int from, int to
) {
    const __m512i none = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int at = from; at < to; at++) {
        const int32_t *row = sums + at * 16;
        __m512 value[GROUPS];
#pragma GCC unroll 3
        for (int g = 0; g < GROUPS; g++)
            value[g] = values(row + g * BLOCK * 16, by->scale[g], by->bias[g]);
        if (skip) {
            const __m512i all = _mm512_load_si512(skip + at * CELL);
#pragma GCC unroll 3
            for (int g = 0; g < GROUPS; g++) {
                const __m512i one = _mm512_shuffle_epi8(all, by->pick[g]);
                value[g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(one), by->skip, value[g]);
            }
        }
        const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(value[0], by->rescale));
        const __m512i b = _mm512_cvtps_epi32(_mm512_mul_ps(value[1], by->rescale));
        const __m512i c = _mm512_cvtps_epi32(_mm512_mul_ps(value[2], by->rescale));
        const __m512i ab = _mm512_packs_epi32(a, b), c0 = _mm512_packs_epi32(c, none);
        _mm512_store_si512(out + at * CELL, _mm512_packus_epi16(ab, c0));
    }
}

/* Convolve a row of `width` positions of `cell` bytes to 48 channels.
 *
 * in: three rows, each from the position left of the first. taps: tiles that three neighbouring
 * positions make, `step` bytes apart. The sums of a block are finished while the next one is
 * computed, a share with each tap. */
INLINE void convolve(
    const int8_t *weights, const Finish *by, const int32_t *offset, const uint8_t *const in[3],
    uint8_t *out, const uint8_t *skip, int width, int taps, int step, int cell
) {
    int32_t sums[2][GROUPS * BLOCK * 16] __attribute__((aligned(64)));
    const int parts = 3 * taps, share = (BLOCK + parts - 1) / parts;
    int turn = 0;
    STORED();
    for (int x = 0; x < width; x += BLOCK, turn ^= 1) {
        const int8_t *w = weights;
        const int32_t *before = sums[turn ^ 1];
        int part = 0;
        if (offset) { /* the same in each position */
            _tile_loadd(0, offset, 0);
            _tile_loadd(1, offset + 16, 0);
            _tile_loadd(2, offset + 32, 0);
        } else {
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
        }
#pragma GCC unroll 3
        for (int row = 0; row < 3; row++) {
            const uint8_t *a = in[row] + (int64_t)x * cell;
#pragma GCC unroll 3
            for (int tap = 0; tap < taps; tap++, part++, a += step, w += GROUPS * TILE) {
                _tile_loadd(3, a, cell);
                _tile_loadd(4, w, 64);
                _tile_dpbusd(0, 3, 4);
                _tile_loadd(4, w + TILE, 64);
                _tile_dpbusd(1, 3, 4);
                _tile_loadd(4, w + 2 * TILE, 64);
                _tile_dpbusd(2, 3, 4);
                if (x && part * share < BLOCK) {
                    const int to = (part + 1) * share < BLOCK ? (part + 1) * share : BLOCK;
                    finish(before, by, out - BLOCK * CELL, skip ? skip - BLOCK * CELL : 0,
                           part * share, to);
                }
            }
        }
        _tile_stored(0, sums[turn], 64);
        _tile_stored(1, sums[turn] + BLOCK * 16, 64);
        _tile_stored(2, sums[turn] + 2 * BLOCK * 16, 64);
        out += BLOCK * CELL;
        skip = skip ? skip + BLOCK * CELL : 0;
    }
    finish(sums[turn ^ 1], by, out - BLOCK * CELL, skip ? skip - BLOCK * CELL : 0, 0, BLOCK);
}

static int count_taps(const Network *network) {
    return (3 * network->inputs + 63) / 64;
}

/* Write codes of contrast x (reference - luma), a sample each. */
static void subtract(
    const uint8_t *reference, const uint8_t *luma, uint8_t *out, int samples, int contrast
) {
    const __m512i middle = _mm512_set1_epi16(NO_VALUE), by = _mm512_set1_epi16(contrast);
    for (int x = 0; x < samples; x += 32) {
        const __mmask32 mask = samples - x < 32 ? (1u << (samples - x)) - 1 : ~0u;
        const __m512i a = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, reference + x));
        const __m512i b = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, luma + x));
        const __m512i apart = _mm512_mullo_epi16(_mm512_sub_epi16(a, b), by);
        const __m512i code = _mm512_add_epi16(apart, middle);
        const __m512i positive = _mm512_max_epi16(code, _mm512_setzero_si512());
        _mm256_mask_storeu_epi8(out + x, mask, _mm512_cvtusepi16_epi8(positive));
    }
}

/* Write the samples of two rows cell by cell, `step` bytes apart. */
static void put_cells(
    const uint8_t *upper, const uint8_t *lower, uint8_t *out, int width, int step
) {
    for (int x = 0; x < width; x++) {
        memcpy(out + (int64_t)x * step, upper + 2 * x, 2);
        memcpy(out + (int64_t)x * step + 2, lower + 2 * x, 2);
    }
}

/* Fill row y of the picture as the first layer takes it: cells of the frame and of each reference,
 * then the QP codes of all of them. */
static void fill(const Strip *strip, int y, uint8_t *out) {
    const Network *network = strip->network;
    const Picture *picture = strip->picture;
    const int step = network->inputs, width = strip->width, maps = network->maps;
    const int64_t at = 2 * (int64_t)strip->left;
    const uint8_t *upper = picture->luma + 2 * y * picture->luma_row + at;
    const uint8_t *lower = upper + picture->luma_row;
    uint8_t apart[2][2 * (MOST_WIDTH + 4 * SIDE * SIDE)];
    out += step; /* the position left of the first */
    put_cells(upper, lower, out, width, step);
    memset(apart, NO_VALUE, picture->references ? 0 : sizeof apart);
    for (int map = 1; map < maps; map++) {
        if (picture->references) {
            const uint8_t *plane = picture->references + (map - 1) * picture->reference_plane;
            const uint8_t *row = plane + 2 * y * picture->reference_row + at;
            subtract(row, upper, apart[0], 2 * width, network->contrast);
            subtract(row + picture->reference_row, lower, apart[1], 2 * width, network->contrast);
        }
        put_cells(apart[0], apart[1], out + 4 * map, width, step);
    }
    const uint8_t *qp = picture->qp + y / SIDE * picture->qp_row + strip->left / SIDE;
    for (int x = 0; x < width; x += SIDE, qp++) {
        const int end = width - x < SIDE ? width - x : SIDE;
        for (int i = x; i < x + end; i++)
            for (int map = 0; map < maps; map++)
                out[(int64_t)i * step + 4 * maps + map] = qp[map * picture->qp_plane];
    }
    memset(out + (int64_t)width * step, NO_VALUE, step);
}

/* The tail: sums of each of the three columns of its kernel, [position][column][4 channels]. */
static void sum_tail(const Strip *strip, const int8_t *weights, const uint8_t *const in[3]) {
    STORED();
    for (int x = 0; x < strip->width + 2; x += 3 * BLOCK) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        for (int row = 0; row < 3; row++) {
            const uint8_t *a = in[row] + (int64_t)x * CELL;
            _tile_loadd(4, weights + row * TAIL_TILE, 48);
            _tile_loadd(3, a, CELL);
            _tile_dpbusd(0, 3, 4);
            _tile_loadd(3, a + BLOCK * CELL, CELL);
            _tile_dpbusd(1, 3, 4);
            _tile_loadd(3, a + 2 * BLOCK * CELL, CELL);
            _tile_dpbusd(2, 3, 4);
        }
        int32_t *sums = strip->sums + x * 12;
        _tile_stored(0, sums, 48);
        _tile_stored(1, sums + BLOCK * 12, 48);
        _tile_stored(2, sums + 2 * BLOCK * 12, 48);
    }
}

INLINE __m512 correction(const int32_t *sums, __m512 scale, __m512 bias) {
    __m512i four = _mm512_undefined_epi32();
#define ONE(i)                                                                                   \
    _mm_add_epi32(                                                                               \
        _mm_add_epi32(                                                                           \
            _mm_loadu_si128((const __m128i *)(sums + 12 * (i))),                                 \
            _mm_loadu_si128((const __m128i *)(sums + 12 * (i) + 16))                             \
        ),                                                                                       \
        _mm_loadu_si128((const __m128i *)(sums + 12 * (i) + 32))                                 \
    )
    four = _mm512_inserti32x4(four, ONE(0), 0);
    four = _mm512_inserti32x4(four, ONE(1), 1);
    four = _mm512_inserti32x4(four, ONE(2), 2);
    four = _mm512_inserti32x4(four, ONE(3), 3);
#undef ONE
    return _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(four), scale), bias);
}

INLINE void add_row(
    const uint8_t *luma, __m512 change, __m512 amount, __mmask16 mask, uint8_t *out
) {
    const __m512i samples = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, luma));
    const __m512 decoded = _mm512_cvtepi32_ps(samples);
    const __m512i sum = _mm512_cvtps_epi32(_mm512_fmadd_ps(change, amount, decoded));
    const __m512i positive = _mm512_max_epi32(sum, _mm512_setzero_si512());
    _mm_mask_storeu_epi8(out, mask, _mm512_cvtusepi32_epi8(positive));
}

/* Add the corrections of row y, as far as the QP asks for them, and write the samples wanted. */
static void restore(const Strip *strip, const float *scales, const float *biases, int y) {
    const Picture *picture = strip->picture;
    const __m512 scale = _mm512_broadcast_f32x4(_mm_loadu_ps(scales));
    const __m512 bias = _mm512_broadcast_f32x4(_mm_loadu_ps(biases));
    const __m512 amount = _mm512_set1_ps(picture->amount);
    /* The upper two samples of eight cells, and the lower two. */
    const __m512i upper =
        _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29);
    const __m512i lower = _mm512_add_epi32(upper, _mm512_set1_epi32(2));
    const uint8_t *qp = picture->qp + y / SIDE * picture->qp_row;
    for (int x = strip->first; x < strip->last; x += SIDE) {
        const int column = strip->left + x, cells = strip->last - x < SIDE ? strip->last - x : SIDE;
        const __mmask16 mask = (1u << 2 * cells) - 1;
        const __m512 gate = _mm512_set1_ps(strip->network->gates[qp[column / SIDE]]);
        const __m512 a = _mm512_mul_ps(correction(strip->sums + x * 12, scale, bias), gate);
        const __m512 b = _mm512_mul_ps(correction(strip->sums + (x + 4) * 12, scale, bias), gate);
        const uint8_t *luma = picture->luma + 2 * y * picture->luma_row + 2 * column;
        uint8_t *out = picture->restored + 2 * y * picture->restored_row + 2 * column;
        add_row(luma, _mm512_permutex2var_ps(a, upper, b), amount, mask, out);
        add_row(luma + picture->luma_row, _mm512_permutex2var_ps(a, lower, b), amount, mask,
                out + picture->restored_row);
    }
}

/* Row y of what a layer gives, from the position left of the first. */
static uint8_t *row_of(const Strip *strip, int layer, int y) {
    const int row = layer ? strip->head_rows + ROWS * (layer - 1) + y % ROWS : y % strip->head_rows;
    return strip->rows + row * strip->pitch;
}

static void run_layer(const Strip *strip, int layer, int y, const int8_t *weights) {
    const Network *network = strip->network;
    const int height = strip->picture->height, width = strip->width;
    const float *scale = network->scale + 48 * layer, *bias = network->bias + 48 * layer;
    const uint8_t *in[3];
    for (int i = 0; i < 3; i++) {
        const int row = y - 1 + i, inside = row >= 0 && row < height;
        if (layer) in[i] = inside ? row_of(strip, layer - 1, row) : strip->edge;
        else in[i] = inside ? strip->input[row % ROWS] : strip->edge_input;
    }
    if (layer == network->layers - 1) {
        configure(12);
        sum_tail(strip, weights, in);
        restore(strip, scale, bias, y);
        configure(16);
        return;
    }
    Finish by = {.skip = _mm512_set1_ps(network->skip)};
    by.rescale = _mm512_set1_ps(network->rescale[layer]);
    for (int g = 0; g < GROUPS; g++) {
        by.scale[g] = _mm512_loadu_ps(scale + 16 * g);
        by.bias[g] = _mm512_loadu_ps(bias + 16 * g);
        const __m512i first = _mm512_set4_epi32(3, 2, 1, 0);
        const __m512i zeros = _mm512_set1_epi32((int)0x80808000);
        by.pick[g] = _mm512_or_si512(_mm512_add_epi32(first, _mm512_set1_epi32(4 * g)), zeros);
    }
    uint8_t *out = row_of(strip, layer, y) + CELL;
    const uint8_t *head = row_of(strip, 0, y) + CELL;
    const int32_t *offset = network->offset;
    /* Each with constants, by which the compiler unrolls. */
    if (!layer && count_taps(network) == 1)
        convolve(weights, &by, offset, in, out, 0, width, 1, 64, network->inputs);
    else if (!layer)
        convolve(weights, &by, offset, in, out, 0, width, 2, 64, network->inputs);
    else if (layer < network->layers - 2)
        convolve(weights, &by, 0, in, out, 0, width, 3, CELL, CELL);
    else
        convolve(weights, &by, 0, in, out, head, width, 3, CELL, CELL);
    memset(out + (size_t)width * CELL, 0, CELL); /* beyond the last position there is nothing */
}

/* Rows top to bottom of a strip: each layer as soon as the one before it is a row ahead. */
static void run_strip(Strip *strip, int top, int bottom) {
    const Network *network = strip->network;
    const int height = strip->picture->height, last = network->layers - 1;
    const int head_bytes = 3 * count_taps(network) * GROUPS * TILE, body_bytes = 9 * GROUPS * TILE;
    int filled = top - last - 1 > 0 ? top - last - 1 : 0;
    for (int time = top - last; time < bottom + last; time++) {
        const int8_t *weights = network->weights;
        for (int layer = 0; layer <= last; layer++) {
            const int y = time - layer, around = last - layer;
            if (y >= 0 && y >= top - around && y < height && y < bottom + around) {
                for (; !layer && filled <= y + 1 && filled < height; filled++)
                    fill(strip, filled, strip->input[filled % ROWS]);
                run_layer(strip, layer, y, weights);
            }
            weights += layer ? body_bytes : head_bytes;
        }
    }
}

/* Restore the rows of cells top to bottom of a picture; 0, or -1 without memory. */
int carfilter_amx_restore(const Network *network, const Picture *picture, int top, int bottom) {
    const int around = (network->layers + SIDE - 1) / SIDE * SIDE;
    const int count = (picture->width + MOST_WIDTH - 1) / MOST_WIDTH;
    const int side = ((picture->width + count - 1) / count + SIDE - 1) / SIDE * SIDE;
    const int most = (side + 2 * around + BLOCK - 1) / BLOCK * BLOCK;
    const size_t pitch = (size_t)(most + 4 * BLOCK) * CELL;
    const size_t input = ((size_t)(most + 2) * network->inputs + 256) / 64 * 64;
    const int head_rows = network->layers, rows = head_rows + ROWS * (network->layers - 2) + 1;
    const size_t sums = (size_t)(most + 4 * BLOCK) * 12 * sizeof(int32_t);
    uint8_t *memory = aligned_alloc(64, rows * pitch + (ROWS + 1) * input + sums);
    if (!memory) return -1;
    memset(memory, 0, pitch);
    for (int i = 1; i < rows; i++) memset(memory + i * pitch, 0, CELL); /* left of the first */
    Strip strip = {.network = network, .picture = picture, .head_rows = head_rows, .pitch = pitch};
    strip.edge = memory;
    strip.rows = memory + pitch;
    strip.edge_input = memory + rows * pitch;
    memset(strip.edge_input, NO_VALUE, (ROWS + 1) * input);
    for (int i = 0; i < ROWS; i++) strip.input[i] = strip.edge_input + (i + 1) * input;
    strip.sums = (int32_t *)(strip.edge_input + (ROWS + 1) * input);
    configure(16);
    for (int start = 0; start < picture->width; start += side) {
        const int stop = start + side < picture->width ? start + side : picture->width;
        strip.left = start - around > 0 ? start - around : 0;
        const int right = stop + around < picture->width ? stop + around : picture->width;
        strip.width = right - strip.left;
        strip.first = start - strip.left;
        strip.last = stop - strip.left;
        run_strip(&strip, top, bottom);
    }
    _tile_release();
    free(memory);
    return 0;
}
