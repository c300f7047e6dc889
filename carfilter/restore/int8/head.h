/* The first layer for dots.h. Where a reference is as the frame is, as it is all over the background
 * of a fixed camera, its inputs are all the code of zero, and what they add to a sum is known.
 */

/* What is looked at where some maps alone are not as the frame is. */
struct Looked {
    int count; /* of runs; 0 where they are not known yet */
    Run runs[3 * MOST_MAPS];
    int32_t offset[CHANNELS];
};

/* Mark a map in the blocks of a row where it is not as the frame is, by what subtract() gave: in
 * the cells that the block's positions see of that row, which are one more to each side. */
static void mark_apart(
    const uint8_t *upper, const uint8_t *lower, int width, int map, uint8_t *apart
) {
    const uint64_t equal = NO_VALUE * 0x0101010101010101u;
    const uint8_t mark = (uint8_t)(1 << map);
    for (int x = 0; x < width; x += BLOCK, apart++) {
        uint64_t above[2], below[2]; /* four cells each */
        memcpy(above, upper + 2 * x, sizeof above);
        memcpy(below, lower + 2 * x, sizeof below);
        const uint64_t left = (above[0] ^ equal) | (below[0] ^ equal);
        const uint64_t right = (above[1] ^ equal) | (below[1] ^ equal);
        if (!(left | right)) continue;
        apart[0] |= mark;
        if (x && left & 0xFFFF) apart[-1] |= mark;
        if (right >> 48) apart[1] |= mark;
    }
}

/* Tell what is looked at: the frame, some maps, a bit each, and the QPs of all. */
static void look_at(const Network *network, int which, Looked *looked) {
    const int cell = network->inputs;
    Run *run = looked->runs;
    int end = -1; /* of the last run */
    for (int at = 0; at < 3 * cell; at += 4) {
        const int map = at % cell / 4;
        if (map && map < network->maps && !(which >> map & 1)) continue;
        if (at != end) *run++ = (Run){(uint8_t)at, (uint8_t)at};
        end = at + 4;
        run[-1].to = (uint8_t)end;
    }
    looked->count = (int)(run - looked->runs);
    memcpy(looked->offset, network->offset, sizeof looked->offset);
    for (int map = 1; map < network->maps; map++)
        for (int c = 0; c < CHANNELS && !(which >> map & 1); c++)
            looked->offset[c] += network->equal[map * CHANNELS + c];
}

/* See sum_products(). In a function of its own: else GCC moves sums from register to register for the
 * loops around it. */
__attribute__((noinline)) static void sum_looked_at(
    const Network *network, const Looked *looked, const uint8_t *const in[3], int32_t *sums
) {
    const int cell = network->inputs;
    sum_products(network->weights, in, cell, 3 * cell, looked->runs, looked->count, looked->offset,
                 sums, CHANNELS);
}

/* Convolve row y of what fill() gave to CHANNELS. */
static void convolve_head(const Strip *strip, int y, const uint8_t *const in[3], uint8_t *out) {
    const Network *network = strip->network;
    const int cell = network->inputs, last = strip->picture->height - 1;
    const uint8_t *above = strip->apart[(y ? y - 1 : y) % ROWS], *here = strip->apart[y % ROWS];
    const uint8_t *below = strip->apart[(y < last ? y + 1 : y) % ROWS];
    int32_t sums[BLOCK * CHANNELS] __attribute__((aligned(64)));
    for (int x = 0; x < strip->width; x += BLOCK) {
        const int which = *above++ | *here++ | *below++;
        Looked *looked = strip->looked + which;
        if (!looked->count) look_at(network, which, looked);
        for (int i = 0; i < BLOCK; i += POSITIONS) {
            const int64_t from = (int64_t)(x + i) * cell;
            const uint8_t *const a[3] = {in[0] + from, in[1] + from, in[2] + from};
            sum_looked_at(network, looked, a, sums + i * CHANNELS);
        }
        finish(network, 0, sums, BLOCK, 0, out + (int64_t)x * CELL);
    }
}
