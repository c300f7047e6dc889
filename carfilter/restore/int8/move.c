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

// Columns of a row of blocks; none where it ends where it begins.
typedef struct {
    int32_t from, to;
} Range;

// Fill which blocks of a row have a vector, and return where the first and the last of them lie.
static Range mark_moving(const int16_t *restrict vectors, int columns, uint8_t *restrict moving)
{
    for (int x = 0; x < columns; x++) {
        uint32_t both;
        memcpy(&both, vectors + 2 * x, sizeof both);
        moving[x] = both != 0;
    }
    const uint8_t *first = memchr(moving, 1, (size_t)columns);
    if (!first)
        return (Range){0, 0};
    int to = columns;
    while (!moving[to - 1])
        to--;
    return (Range){(int32_t)(first - moving), to};
}

// Return what has to be known of a row of blocks: of those that have a vector, here or in the rows
// beside it, and of their neighbours.
static Range needed(const Range *moving, int row, int rows, int columns)
{
    Range all = {columns, 0};
    for (int i = row ? row - 1 : 0; i <= row + 1 && i < rows; i++) {
        if (moving[i].from == moving[i].to)
            continue;
        const int from = moving[i].from ? moving[i].from - 1 : 0;
        const int to = moving[i].to < columns ? moving[i].to + 1 : columns;
        all.from = from < all.from ? from : all.from;
        all.to = to > all.to ? to : all.to;
    }
    return all.to ? all : (Range){0, 0};
}

// Fill the sums over 3x3 blocks in a part of a row of them, from that row and those beside it;
// `sums` has room for one of each column.
static void sum_around(const int32_t *const lines[3], Range part, int columns, int32_t *sums,
                       int32_t *around)
{
    const int last = columns - 1, from = part.from ? part.from : 1;
    const int to = part.to < last ? part.to : last;
    for (int x = from - 1; x < (to < last ? to + 1 : columns); x++)
        sums[x] = lines[0][x] + lines[1][x] + lines[2][x];
    if (part.from == 0)
        around[0] = 2 * sums[0] + sums[last ? 1 : 0];
    for (int x = from; x < to; x++)
        around[x] = sums[x - 1] + sums[x] + sums[x + 1];
    if (part.to == columns)
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
    static const int16_t still[2 * TOGETHER];
    for (int y = 0; y < rows; y++) {
        for (int x = 0; x < columns; x++, first += 2, both += 2) {
            while (columns - x >= TOGETHER && !memcmp(first, still, sizeof still)) {
                memcpy(both, second + 2 * ((intptr_t)y * columns + x), sizeof still);
                x += TOGETHER;
                first += 2 * TOGETHER;
                both += 2 * TOGETHER;
            }
            if (x == columns)
                break;
            const int right = (first[0] + step / 2) >> 6, down = (first[1] + step / 2) >> 6;
            const int row = clamped(y + down, 0, rows - 1);
            const int column = clamped(x + right, 0, columns - 1);
            const int16_t *led = second + 2 * ((intptr_t)row * columns + column);
            both[0] = (int16_t)(first[0] + led[0]);
            both[1] = (int16_t)(first[1] + led[1]);
        }
    }
}
