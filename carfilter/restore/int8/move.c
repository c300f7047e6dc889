// Pictures moved along motion: what move() in carfilter/restore/motion/plain.py computes, bit by bit.
#include "levels.h"

enum {
    TAPS = 4,
    WIDE = 8, // pixels that are filtered at a time: a whole vector, though half are used
};

typedef struct {
    const void *picture, *reference; // [H, W]
    const int16_t *field;            // [ceil(H/4), ceil(W/4), 2]
    const int16_t (*filters)[TAPS];
    int32_t height, width, most;
} Move;

// Fill the sums over 3x3 blocks in a row of them; `sums` has room for one of each column.
static void sum_around(const int32_t *blocks, int row, int rows, int columns, int32_t *sums,
                       int32_t *around)
{
    const int32_t *here = blocks + (intptr_t)row * columns;
    const int32_t *above = row ? here - columns : here;
    const int32_t *below = row + 1 < rows ? here + columns : here;
    for (int x = 0; x < columns; x++)
        sums[x] = above[x] + here[x] + below[x];
    const int last = columns - 1;
    around[0] = 2 * sums[0] + sums[last ? 1 : 0];
    for (int x = 1; x < last; x++)
        around[x] = sums[x - 1] + sums[x] + sums[x + 1];
    around[last] = last ? sums[last - 1] + 2 * sums[last] : around[0];
}

#ifdef __AVX2__
#include "blocks.h"
#define BY_BLOCKS
#endif
#define SAMPLE uint8_t
#define SUM int16_t // of four samples, weighted
#define NAMED(name) name##8
#include "move.h"
#undef SAMPLE
#undef SUM
#undef NAMED
#undef BY_BLOCKS

#define SAMPLE uint16_t
#define SUM int32_t
#define NAMED(name) name##16
#include "move.h"

// Fill the motion along one field and then, from where it leads, along another, [rows, columns, 2].
EXPORTED void carfilter_motion_compose(const int16_t *first, const int16_t *second, int32_t rows,
                                       int32_t columns, int16_t *both)
{
    const int step = BLOCK * STEPS; // 64, which is shifted by
    for (int y = 0; y < rows; y++) {
        for (int x = 0; x < columns; x++, first += 2, both += 2) {
            const int right = (first[0] + step / 2) >> 6, down = (first[1] + step / 2) >> 6;
            const int row = clamped(y + down, 0, rows - 1);
            const int column = clamped(x + right, 0, columns - 1);
            const int16_t *led = second + 2 * ((intptr_t)row * columns + column);
            both[0] = (int16_t)(first[0] + led[0]);
            both[1] = (int16_t)(first[1] + led[1]);
        }
    }
}
