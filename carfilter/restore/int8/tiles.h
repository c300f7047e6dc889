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
    HELD = 16,                       /* positions that a tile holds */
    GROUPS = CHANNELS / 16,          /* of channels, as many as a tile of weights has outputs */
    TILES = CHANNELS == 32 ? 2 : 1,  /* of positions, whose sums are kept at a time */
    BLOCK = TILES * HELD,            /* positions of these */
    CELL = CHANNELS == 32 ? 32 : 64, /* bytes of a position: of 48 channels 16 more that are zero */
    BODY_TAPS = (3 * CELL + 63) / 64,
    SUMS = HELD * 16,                /* of a tile */
    TILE = 1024,                     /* bytes of 64 x 16 weights */
    TAIL_TILE = 768,                 /* of 64 x 12 */
};

/* Tiles by number, after those of the sums. A product waits for the one before it that adds to the
 * same sums, for as long as three of them take: so at least three sums. And no tile more than need
 * be: a core whose other hyperthread computes with tiles too has few to rename, and takes twice as
 * long with eight. */
#if CHANNELS == 32
#define POSITIONS 4
#define WEIGHTS 5
#else
#define POSITIONS 3
#define WEIGHTS 4
#endif

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

static void configure(int outputs) {
    TileConfig config __attribute__((aligned(64)));
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i <= WEIGHTS; i++) {
        config.rows[i] = 16;
        config.bytes[i] = i == POSITIONS ? 64 : 4 * outputs;
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
    __m512i pick[TILES * GROUPS]; /* makes each byte of a group, in finish()'s order, a number */
} Finish;

INLINE __m512 values(const int32_t *sums, __m512 scale, __m512 bias) {
    const __m512 worth = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums)), scale);
    return _mm512_add_ps(worth, bias);
}

/* What packs and stores take as 64 bytes: quarters of a position's groups, or of two positions'. */
#if CHANNELS == 32
INLINE __m512i in_quarters(const uint8_t *cells) {
    const __m512i turn = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
    return _mm512_permutexvar_epi64(turn, _mm512_loadu_si512(cells));
}

INLINE void put_quarters(const __m512i *codes, uint8_t *cells) {
    const __m512i turn = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    const __m512i one = _mm512_packs_epi32(codes[0], codes[1]);
    const __m512i two = _mm512_packs_epi32(codes[2], codes[3]);
    const __m512i both = _mm512_permutexvar_epi64(turn, _mm512_packus_epi16(one, two));
    _mm512_storeu_si512(cells, both);
}
#else
INLINE __m512i in_quarters(const uint8_t *cells) {
    return _mm512_load_si512(cells);
}

INLINE void put_quarters(const __m512i *codes, uint8_t *cells) {
    const __m512i ab = _mm512_packs_epi32(codes[0], codes[1]);
    const __m512i c0 = _mm512_packs_epi32(codes[2], _mm512_setzero_si512());
    _mm512_store_si512(cells, _mm512_packus_epi16(ab, c0));
}
#endif

/* Bring sums [TILES][GROUPS][HELD][16] of some positions to uint8, which is the ReLU as well. In each
 * quarter of a position lie four channels of each group, then what is zero: how packs leave them. */
INLINE void finish(
    const int32_t *sums, const Finish *by, uint8_t *out, const uint8_t *skip, int from, int to
) {
    UNROLL for (int at = from; at < to; at += TILES) {
        __m512i codes[TILES * GROUPS];
        const __m512i all = skip ? in_quarters(skip + at * CELL) : _mm512_setzero_si512();
        UNROLL for (int i = 0; i < TILES * GROUPS; i++) {
            const int g = i % GROUPS, position = at + i / GROUPS;
            const int32_t *tile = sums + (position / HELD * GROUPS + g) * SUMS;
            __m512 value = values(tile + position % HELD * 16, by->scale[g], by->bias[g]);
            if (skip) {
                const __m512i one = _mm512_shuffle_epi8(all, by->pick[i]);
                value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(one), by->skip, value);
            }
            codes[i] = _mm512_cvtps_epi32(_mm512_mul_ps(value, by->rescale));
        }
        put_quarters(codes, out + at * CELL);
    }
}

#if CHANNELS == 32
/* Begin the sums of a block with an offset, the same in each position. */
INLINE void begin_sums(const int32_t *offset) {
    if (offset) {
        _tile_loadd(0, offset, 0);
        _tile_loadd(1, offset + 16, 0);
        _tile_loadd(2, offset, 0);
        _tile_loadd(3, offset + 16, 0);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
}

/* Add the products of a tap: positions `cell` bytes apart, by weights of each group. */
INLINE void add_products(const uint8_t *in, int cell, const int8_t *weights) {
    _tile_loadd(WEIGHTS, weights, 64);
    _tile_loadd(POSITIONS, in, cell);
    _tile_dpbusd(0, POSITIONS, WEIGHTS);
    _tile_loadd(POSITIONS, in + HELD * cell, cell);
    _tile_dpbusd(2, POSITIONS, WEIGHTS);
    _tile_loadd(WEIGHTS, weights + TILE, 64);
    _tile_dpbusd(3, POSITIONS, WEIGHTS);
    _tile_loadd(POSITIONS, in, cell);
    _tile_dpbusd(1, POSITIONS, WEIGHTS);
}

INLINE void store_sums(int32_t *sums) {
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SUMS, 64);
    _tile_stored(2, sums + 2 * SUMS, 64);
    _tile_stored(3, sums + 3 * SUMS, 64);
}
#else
/* Begin the sums of a block with an offset, the same in each position. */
INLINE void begin_sums(const int32_t *offset) {
    if (offset) {
        _tile_loadd(0, offset, 0);
        _tile_loadd(1, offset + 16, 0);
        _tile_loadd(2, offset + 32, 0);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
    }
}

/* Add the products of a tap: positions `cell` bytes apart, by weights of each group. */
INLINE void add_products(const uint8_t *in, int cell, const int8_t *weights) {
    _tile_loadd(POSITIONS, in, cell);
    _tile_loadd(WEIGHTS, weights, 64);
    _tile_dpbusd(0, POSITIONS, WEIGHTS);
    _tile_loadd(WEIGHTS, weights + TILE, 64);
    _tile_dpbusd(1, POSITIONS, WEIGHTS);
    _tile_loadd(WEIGHTS, weights + 2 * TILE, 64);
    _tile_dpbusd(2, POSITIONS, WEIGHTS);
}

INLINE void store_sums(int32_t *sums) {
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + SUMS, 64);
    _tile_stored(2, sums + 2 * SUMS, 64);
}
#endif

/* Convolve a row of `width` positions of `cell` bytes.
 *
 * in: three rows, each from the position left of the first. taps: tiles that three neighbouring
 * positions make, 64 bytes apart. The sums of a block are finished while the next one is computed, a
 * share with each tap. */
INLINE void convolve_blocks(
    const int8_t *weights, const Finish *by, const int32_t *offset, const uint8_t *const in[3],
    uint8_t *out, const uint8_t *skip, int width, int taps, int cell
) {
    int32_t sums[2][TILES * GROUPS * SUMS] __attribute__((aligned(64)));
    const int parts = 3 * taps, share = (BLOCK / TILES + parts - 1) / parts * TILES;
    int turn = 0;
    STORED();
    for (int x = 0; x < width; x += BLOCK, turn ^= 1) {
        const int8_t *w = weights;
        const int32_t *before = sums[turn ^ 1];
        int part = 0;
        begin_sums(offset);
        UNROLL for (int row = 0; row < 3; row++) {
            const uint8_t *a = in[row] + (int64_t)x * cell;
            UNROLL for (int tap = 0; tap < taps; tap++, part++, w += GROUPS * TILE) {
                add_products(a + 64 * tap, cell, w);
                if (x && part * share < BLOCK) {
                    const int to = (part + 1) * share < BLOCK ? (part + 1) * share : BLOCK;
                    finish(before, by, out - BLOCK * CELL, skip ? skip - BLOCK * CELL : 0,
                           part * share, to);
                }
            }
        }
        store_sums(sums[turn]);
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

/* Convolve a row of positions to CHANNELS.
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
    }
    for (int i = 0; i < TILES * GROUPS; i++) {
        const __m512i first = _mm512_set4_epi32(3, 2, 1, 0);
        const __m512i zeros = _mm512_set1_epi32((int)0x80808000);
        by.pick[i] = _mm512_or_si512(_mm512_add_epi32(first, _mm512_set1_epi32(4 * i)), zeros);
    }
    const int8_t *weights = weights_of(network, layer);
    const int32_t *offset = network->offset;
    const int cell = network->inputs;
    /* Each with constants, by which the compiler unrolls. */
    if (!layer && count_taps(network) == 1)
        convolve_blocks(weights, &by, offset, in, out, 0, width, 1, cell);
    else if (!layer)
        convolve_blocks(weights, &by, offset, in, out, 0, width, 2, cell);
    else if (!skip)
        convolve_blocks(weights, &by, 0, in, out, 0, width, BODY_TAPS, CELL);
    else
        convolve_blocks(weights, &by, 0, in, out, skip, width, BODY_TAPS, CELL);
}

/* The tail: sums of each of the three columns of its kernel, [position][column][4 channels]. */
static void sum_tail(
    const Network *network, const uint8_t *const in[3], int32_t *sums, int width
) {
    const int8_t *weights = weights_of(network, network->layers - 1);
    configure(12);
    STORED();
    for (int x = 0; x < width + 2; x += 3 * HELD) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        for (int row = 0; row < 3; row++) {
            const uint8_t *a = in[row] + (int64_t)x * CELL;
            _tile_loadd(WEIGHTS, weights + row * TAIL_TILE, 48);
            _tile_loadd(POSITIONS, a, CELL);
            _tile_dpbusd(0, POSITIONS, WEIGHTS);
            _tile_loadd(POSITIONS, a + HELD * CELL, CELL);
            _tile_dpbusd(1, POSITIONS, WEIGHTS);
            _tile_loadd(POSITIONS, a + 2 * HELD * CELL, CELL);
            _tile_dpbusd(2, POSITIONS, WEIGHTS);
        }
        _tile_stored(0, sums + x * 12, 48);
        _tile_stored(1, sums + (x + HELD) * 12, 48);
        _tile_stored(2, sums + (x + 2 * HELD) * 12, 48);
    }
    configure(16);
}
