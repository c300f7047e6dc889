/* Convolutions of int8_rows.c by dot products of four bytes, or of two, on CPUs without matrix units.
 *
 * A vector holds the sums of LANES outputs; the inputs of a position are spread over it. The bytes of
 * three neighbouring positions are one run, so that a row of a kernel is one long dot product.
 */
#include <immintrin.h>

enum {
    CELL = CHANNELS, /* bytes of a position */
    BLOCK = 16,      /* positions whose sums are kept at a time */
};

/* dot(sum, a, w): add to each lane the products of four bytes, all exact. POSITIONS: sums of as many
 * are held in registers. STEP: bytes that `w` takes for each output. */
#if defined __AVX512VNNI__
enum { LANES = 16, POSITIONS = 8, STEP = 4 };
typedef __m512i Lanes;
typedef __m512 Floats;
typedef __m512i Spread;
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, v) _mm512_storeu_si512(p, v)
INLINE Spread spread(const uint8_t *inputs) {
    int32_t four;
    memcpy(&four, inputs, 4);
    return _mm512_set1_epi32(four);
}
INLINE Lanes dot(Lanes sum, Spread a, const int8_t *w) {
    return _mm512_dpbusd_epi32(sum, a, LOAD(w));
}
INLINE Floats fused(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a, b, c);
}
INLINE Floats numbers(const uint8_t *codes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes)));
}
INLINE void put_codes(Floats values, uint8_t *out) {
    const Lanes positive = _mm512_max_epi32(_mm512_cvtps_epi32(values), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)out, _mm512_cvtusepi32_epi8(positive));
}
#else
enum { LANES = 8, POSITIONS = 2 };
typedef __m256i Lanes;
typedef __m256 Floats;
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)
INLINE Floats fused(Floats a, Floats b, Floats c) {
    return _mm256_fmadd_ps(a, b, c);
}
INLINE Floats numbers(const uint8_t *codes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)codes)));
}
INLINE void put_codes(Floats values, uint8_t *out) {
    const Lanes codes = _mm256_cvtps_epi32(values);
    const __m128i upper = _mm256_extracti128_si256(codes, 1);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), upper);
    _mm_storel_epi64((__m128i *)out, _mm_packus_epi16(words, words));
}
#if defined __AVXVNNI__
enum { STEP = 4 };
typedef __m256i Spread;
INLINE Spread spread(const uint8_t *inputs) {
    int32_t four;
    memcpy(&four, inputs, 4);
    return _mm256_set1_epi32(four);
}
INLINE Lanes dot(Lanes sum, Spread a, const int8_t *w) {
    return _mm256_dpbusd_avx_epi32(sum, a, LOAD(w));
}
#else
/* Products of bytes would saturate here: VPMADDUBSW adds two of them in 16 bits. So weights come in
 * 16 bits, those of the inputs 0 and 2 first, then those of 1 and 3. */
#define PAIRS
enum { STEP = 8 };
typedef struct {
    __m256i even, odd;
} Spread;
INLINE Spread spread(const uint8_t *inputs) {
    int32_t four;
    memcpy(&four, inputs, 4);
    const __m256i all = _mm256_set1_epi32(four);
    return (Spread){_mm256_and_si256(all, _mm256_set1_epi16(255)), _mm256_srli_epi16(all, 8)};
}
INLINE Lanes dot(Lanes sum, Spread a, const int8_t *w) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(a.even, LOAD(w)));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a.odd, LOAD(w + 32)));
}
#endif
#endif

/* Nothing has to be asked for. */
int carfilter_rows_start(void) {
    return 0;
}

static void begin(void) {}

static void end(void) {}

/* Add the dot products of one row of a kernel, `bytes` long, to sums of `outputs` each.
 *
 * in: the bytes of the first position; those of the next follow `cell` bytes later. */
INLINE void add_products(
    const int8_t *weights, const uint8_t *in, int cell, int bytes, int32_t *sums, int outputs,
    int apart
) {
    enum { MOST = CHANNELS / LANES };
    const int groups = outputs / LANES;
    Lanes sum[POSITIONS][MOST];
    UNROLL for (int p = 0; p < POSITIONS; p++)
        UNROLL for (int g = 0; g < groups; g++) sum[p][g] = LOAD(sums + p * apart + g * LANES);
    for (int at = 0; at < bytes; at += 4, weights += outputs * STEP) {
        Spread a[POSITIONS];
        UNROLL for (int p = 0; p < POSITIONS; p++) a[p] = spread(in + p * cell + at);
        UNROLL for (int g = 0; g < groups; g++)
            UNROLL for (int p = 0; p < POSITIONS; p++)
                sum[p][g] = dot(sum[p][g], a[p], weights + g * LANES * STEP);
    }
    UNROLL for (int p = 0; p < POSITIONS; p++)
        UNROLL for (int g = 0; g < groups; g++) STORE(sums + p * apart + g * LANES, sum[p][g]);
}

typedef int32_t Sums __attribute__((vector_size(4 * LANES)));

INLINE Floats all(float value) {
    return value - (Floats){0};
}

/* Bring the sums of some positions to uint8, which is the ReLU as well. skip: what is added. */
INLINE void finish_all(
    const Network *network, int layer, const int32_t *sums, int count, const uint8_t *skip,
    uint8_t *out
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

#ifdef PAIRS
#include "int8_winograd.h"
#endif

/* Convolve a row of `width` positions to 48 channels.
 *
 * in: three rows, each from the position left of the first. skip: what is added to the layer. */
static void convolve(
    const Network *network, int layer, const uint8_t *const in[3], uint8_t *out,
    const uint8_t *skip, int width
) {
#ifdef PAIRS
    if (layer) {
        convolve_by_tiles(network, layer, in, out, skip, width);
        return;
    }
#endif
    const int cell = layer ? CELL : network->inputs;
    int32_t sums[BLOCK * CHANNELS] __attribute__((aligned(64)));
    for (int x = 0; x < width; x += BLOCK) {
        for (int i = 0; i < BLOCK; i++)
            if (layer) memset(sums + i * CHANNELS, 0, sizeof sums / BLOCK);
            else memcpy(sums + i * CHANNELS, network->offset, sizeof sums / BLOCK);
        const int8_t *weights = weights_of(network, layer);
        for (int row = 0; row < 3; row++, weights += 3 * cell / 4 * CHANNELS * STEP) {
            const uint8_t *a = in[row] + (int64_t)x * cell;
            for (int i = 0; i < BLOCK; i += POSITIONS)
                add_products(weights, a + i * cell, cell, 3 * cell, sums + i * CHANNELS, CHANNELS,
                             CHANNELS);
        }
        const int64_t at = (int64_t)x * CELL;
        finish(network, layer, sums, BLOCK, skip ? skip + at : 0, out + at);
    }
}

/* The tail: sums of each of the three columns of its kernel, [position][column][4 channels]. */
static void sum_tail(
    const Network *network, const uint8_t *const in[3], int32_t *sums, int width
) {
    enum { OUTPUTS = 16 }; /* of which four are zero, and overwritten by the next position's */
    int32_t own[POSITIONS * OUTPUTS];
    for (int x = 0; x < width + 2; x += POSITIONS) {
        const int8_t *weights = weights_of(network, network->layers - 1);
        memset(own, 0, sizeof own);
        for (int row = 0; row < 3; row++, weights += CELL / 4 * OUTPUTS * STEP)
            add_products(weights, in[row] + (int64_t)x * CELL, CELL, CELL, own, OUTPUTS, OUTPUTS);
        for (int p = 0; p < POSITIONS; p++)
            memcpy(sums + (x + p) * 12, own + p * OUTPUTS, 12 * sizeof(int32_t));
    }
}
