/* Convolutions of rows.c on Intel's matrix units (AMX).
 *
 * Instructions: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBUSD.
 */
#if defined __clang__ && __clang_major__ < 14
#error "Clang 13 releases the tiles at the end of each function: take Clang 14 or newer"
#endif

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    BLOCK = 16,      /* positions that a tile holds */
    GROUPS = 3,      /* of 16 channels */
    CELL = 64,       /* bytes of a position: 48 channels, and 16 that are zero */
    TILE = 1024,     /* bytes of 64 x 16 weights */
    TAIL_TILE = 768, /* of 64 x 12 */
};

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} TileConfig;

/* GCC's tile loads do not say that they read memory: without this, stores may follow them. */
#define STORED() __asm__ volatile("" ::: "memory")

/* Ask Linux for the matrix units, once a process; 0 if it grants them. */
EXPORTED int NAMED(carfilter_rows_start)(void) {
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

static void begin(void) {
    configure(16);
}

static void end(void) {
    _tile_release();
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
    UNROLL for (int at = from; at < to; at++) {
        const int32_t *row = sums + at * 16;
        __m512 value[GROUPS];
        UNROLL for (int g = 0; g < GROUPS; g++)
            value[g] = values(row + g * BLOCK * 16, by->scale[g], by->bias[g]);
        if (skip) {
            const __m512i all = _mm512_load_si512(skip + at * CELL);
            UNROLL for (int g = 0; g < GROUPS; g++) {
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
INLINE void convolve_blocks(
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
        UNROLL for (int row = 0; row < 3; row++) {
            const uint8_t *a = in[row] + (int64_t)x * cell;
            UNROLL for (int tap = 0; tap < taps; tap++, part++, a += step, w += GROUPS * TILE) {
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

/* Tiles take all maps together. */
struct Looked {
    int count;
};

static void mark_apart(
    const uint8_t *upper, const uint8_t *lower, int width, int map, uint8_t *apart
) {
    (void)upper, (void)lower, (void)width, (void)map, (void)apart;
}

static int count_taps(const Network *network) {
    return (3 * network->inputs + 63) / 64;
}

/* Convolve a row of positions to 48 channels.
 *
 * in: three rows, each from the position left of the first. skip: what is added to the layer. */
static void convolve(
    const Strip *strip, int layer, int y, const uint8_t *const in[3], uint8_t *out,
    const uint8_t *skip
) {
    (void)y;
    const Network *network = strip->network;
    const int width = strip->width;
    const float *scale = network->scale + CHANNELS * layer;
    const float *bias = network->bias + CHANNELS * layer;
    Finish by = {.skip = _mm512_set1_ps(network->skip)};
    by.rescale = _mm512_set1_ps(network->rescale[layer]);
    for (int g = 0; g < GROUPS; g++) {
        by.scale[g] = _mm512_loadu_ps(scale + 16 * g);
        by.bias[g] = _mm512_loadu_ps(bias + 16 * g);
        const __m512i first = _mm512_set4_epi32(3, 2, 1, 0);
        const __m512i zeros = _mm512_set1_epi32((int)0x80808000);
        by.pick[g] = _mm512_or_si512(_mm512_add_epi32(first, _mm512_set1_epi32(4 * g)), zeros);
    }
    const int8_t *weights = weights_of(network, layer);
    const int32_t *offset = network->offset;
    const int cell = network->inputs;
    /* Each with constants, by which the compiler unrolls. */
    if (!layer && count_taps(network) == 1)
        convolve_blocks(weights, &by, offset, in, out, 0, width, 1, 64, cell);
    else if (!layer)
        convolve_blocks(weights, &by, offset, in, out, 0, width, 2, 64, cell);
    else if (!skip)
        convolve_blocks(weights, &by, 0, in, out, 0, width, 3, CELL, CELL);
    else
        convolve_blocks(weights, &by, 0, in, out, skip, width, 3, CELL, CELL);
}

/* The tail: sums of each of the three columns of its kernel, [position][column][4 channels]. */
static void sum_tail(
    const Network *network, const uint8_t *const in[3], int32_t *sums, int width
) {
    const int8_t *weights = weights_of(network, network->layers - 1);
    configure(12);
    STORED();
    for (int x = 0; x < width + 2; x += 3 * BLOCK) {
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
        _tile_stored(0, sums + x * 12, 48);
        _tile_stored(1, sums + (x + BLOCK) * 12, 48);
        _tile_stored(2, sums + (x + 2 * BLOCK) * 12, 48);
    }
    configure(16);
}
