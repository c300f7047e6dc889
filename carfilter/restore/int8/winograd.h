/* Winograd's minimal filtering for dots.h, where a product of bytes takes as long as one of 16
 * bits: half the products, in whole numbers, so that every sum is the exact one.
 *
 * F(4, 3) along a row: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR
 * 2016, https://arxiv.org/abs/1509.09308, section 4.3. carfilter/restore/int8/packing.py has 24 times its
 * matrix G; numbers stay below 2^12 before the products, and what overflows in sums of them
 * cancels.
 */

enum {
    OUTPUTS = 4, /* positions that a tile gives */
    POINTS = 6,  /* positions that it takes, and products that it needs for each pair of channels */
    TILES = 8,   /* what they need at a time stays in 32 KB */
    SIDE_BY_SIDE = 4,
};

/* Transform a row of tiles, [position][CHANNELS], to [point][tile][CHANNELS]. */
static void transform(const uint8_t *in, int16_t out[POINTS][TILES][CHANNELS]) {
    for (int tile = 0; tile < TILES; tile++, in += OUTPUTS * CELL)
        for (int c = 0; c < CHANNELS; c++) {
            const int16_t a = in[c], b = in[c + CELL], d = in[c + 2 * CELL];
            const int16_t e = in[c + 3 * CELL], f = in[c + 4 * CELL], g = in[c + 5 * CELL];
            const int16_t even = (int16_t)(f - 4 * d), odd = (int16_t)(e - 4 * b);
            const int16_t near = (int16_t)(f - d), far = (int16_t)(2 * (e - b));
            out[0][tile][c] = (int16_t)(4 * (a - d) + near);
            out[1][tile][c] = (int16_t)(even + odd);
            out[2][tile][c] = (int16_t)(even - odd);
            out[3][tile][c] = (int16_t)(near + far);
            out[4][tile][c] = (int16_t)(near - far);
            out[5][tile][c] = (int16_t)(4 * (b - e) + g - e);
        }
}

/* Add the products of a row of the kernel at one point: weights [CHANNELS / 2][CHANNELS][2], of some tiles. */
INLINE void add_point(const int8_t *weights, const int16_t *in, int32_t *sums) {
    enum { GROUPS = 2 }; /* of outputs: as many sums as registers hold beside the rest */
    for (int out = 0; out < CHANNELS; out += GROUPS * LANES) {
        const int8_t *w = weights + 4 * out;
        Lanes sum[SIDE_BY_SIDE][GROUPS];
        UNROLL for (int t = 0; t < SIDE_BY_SIDE; t++)
            UNROLL for (int g = 0; g < GROUPS; g++)
                sum[t][g] = LOAD(sums + t * CHANNELS + out + g * LANES);
        /* GCC copies all sums once in each turn. */
        UNROLL_8 for (int c = 0; c < CHANNELS; c += 2, w += 4 * CHANNELS) {
            Lanes a[SIDE_BY_SIDE];
            UNROLL for (int t = 0; t < SIDE_BY_SIDE; t++)
                a[t] = spread_words(in + t * CHANNELS + c);
            UNROLL for (int g = 0; g < GROUPS; g++) {
                const Lanes by = LOAD(w + 4 * g * LANES);
                UNROLL for (int t = 0; t < SIDE_BY_SIDE; t++)
                    sum[t][g] = add_pairs(sum[t][g], a[t], by);
            }
        }
        UNROLL for (int t = 0; t < SIDE_BY_SIDE; t++)
            UNROLL for (int g = 0; g < GROUPS; g++)
                STORE(sums + t * CHANNELS + out + g * LANES, sum[t][g]);
    }
}

/* Bring the sums of a tile's points, TILES apart, to those of its positions. */
static void gather(const int32_t *points, int32_t sums[OUTPUTS][CHANNELS]) {
    const uint32_t third = 0xAAAAAAAB; /* 3 x third = 1, modulo 2^32 */
    for (int c = 0; c < CHANNELS; c++) {
        uint32_t m[POINTS];
        for (int i = 0; i < POINTS; i++) m[i] = (uint32_t)points[i * TILES * CHANNELS + c];
        const uint32_t near = m[1] + m[2], apart = m[1] - m[2];
        const uint32_t far = m[3] + m[4], far_apart = m[3] - m[4];
        sums[0][c] = (int32_t)((m[0] + near + far) * third) >> 3;
        sums[1][c] = (int32_t)((apart + 2 * far_apart) * third) >> 3;
        sums[2][c] = (int32_t)((near + 4 * far) * third) >> 3;
        sums[3][c] = (int32_t)((apart + 8 * far_apart + m[5]) * third) >> 3;
    }
}

/* Convolve a row of positions; see convolve() in dots.h. */
static void convolve_by_tiles(
    const Network *network, int layer, const uint8_t *const in[3], uint8_t *out,
    const uint8_t *skip, int width
) {
    int16_t inputs[POINTS][TILES][CHANNELS] __attribute__((aligned(64)));
    int32_t points[POINTS][TILES][CHANNELS] __attribute__((aligned(64)));
    int32_t sums[OUTPUTS][CHANNELS] __attribute__((aligned(64)));
    for (int x = 0; x < width; x += TILES * OUTPUTS) {
        const int8_t *weights = weights_of(network, layer);
        memset(points, 0, sizeof points);
        for (int row = 0; row < 3; row++) {
            transform(in[row] + (int64_t)x * CELL, inputs);
            for (int i = 0; i < POINTS; i++, weights += 2 * CHANNELS * CHANNELS)
                for (int tile = 0; tile < TILES; tile += SIDE_BY_SIDE)
                    add_point(weights, inputs[i][tile], points[i][tile]);
        }
        for (int tile = 0; tile < TILES; tile++) {
            const int64_t at = (int64_t)(x + tile * OUTPUTS) * CELL;
            gather(points[0][tile], sums);
            finish(network, layer, sums[0], OUTPUTS, skip ? skip + at : 0, out + at);
        }
    }
}
