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
    int32_t height, width, most, less;
} Move;

// Return the sum over 3x3 blocks.
static int64_t around(const int32_t *sums, int row, int column, int rows, int columns)
{
    int64_t sum = 0;
    for (int i = -1; i <= 1; i++)
        for (int j = -1; j <= 1; j++)
            sum += sums[(intptr_t)clamped(row + i, 0, rows - 1) * columns +
                        clamped(column + j, 0, columns - 1)];
    return sum;
}

#define SAMPLE uint8_t
#define SUM int16_t // of four samples, weighted
#define NAMED(name) name##8
#include "move.h"
#undef SAMPLE
#undef SUM
#undef NAMED

#define SAMPLE uint16_t
#define SUM int32_t
#define NAMED(name) name##16
#include "move.h"
