// Motion between two pictures, and pictures moved along it: the inner loops of
// carfilter/restore/motion.
//
// Patches are matched by inverse compositional search and blended by how well each explains a
// pixel, after Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016,
// https://arxiv.org/abs/1603.03590. All sums are of integers, and what is left of floating point is
// done in the order that plain.py there does it in: both give the same bits.

#include <stdint.h>
#include <string.h>

#ifdef _WIN32
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED
#endif

enum {
    CELL = 4,       // pixels of a level to a side that have one patch
    PATCH = 8,      // pixels of a patch, whose middle its cell is
    AREA = PATCH * PATCH,
    STEPS = 16,     // of a pixel, to which vectors are rounded
    BLOCK = 4,      // pixels of the picture to a side that have one vector
    TAPS = 4,
    WIDE = 8,       // pixels that are filtered at a time: a whole vector, though half are used
    TOGETHER = 4,   // cells that are compared at a time: as many as the edge has room for
};

typedef struct {
    const uint8_t *pixels; // of the top left corner; `edge` more lie around the level
    int32_t height, width, row, edge;
} Level;

typedef struct {
    int16_t template[AREA], across[AREA], down[AREA];
    int32_t xx, xy, yy; // of the gradients, about their means
    int32_t sum_x, sum_y;
} Patch;

static int clamped(int value, int least, int most)
{
    return value < least ? least : value > most ? most : value;
}

static int rounded(float value)
{
    return (int)__builtin_floorf(value + 0.5f);
}

static void take_patch(const Level *level, int top, int left, Patch *patch)
{
    const uint8_t *at = level->pixels + (intptr_t)top * level->row + left;
    for (int y = 0; y < PATCH; y++, at += level->row) {
        for (int x = 0; x < PATCH; x++) {
            patch->template[y * PATCH + x] = at[x] * STEPS;
            patch->across[y * PATCH + x] = at[x + 1] - at[x - 1];
            patch->down[y * PATCH + x] = at[x + level->row] - at[x - level->row];
        }
    }
    int32_t xx = 0, xy = 0, yy = 0, sum_x = 0, sum_y = 0;
    for (int i = 0; i < AREA; i++) {
        xx += patch->across[i] * patch->across[i];
        xy += patch->across[i] * patch->down[i];
        yy += patch->down[i] * patch->down[i];
        sum_x += patch->across[i];
        sum_y += patch->down[i];
    }
    patch->xx = xx - ((sum_x * sum_x) >> 6);
    patch->xy = xy - ((sum_x * sum_y) >> 6);
    patch->yy = yy - ((sum_y * sum_y) >> 6);
    patch->sum_x = sum_x;
    patch->sum_y = sum_y;
}

// Fill what a patch moved to (u, v) of the reference differs by, in 1/16 levels; return the sum of
// its squares about its mean.
static int64_t compare(const Level *reference, int top, int left, float u, float v,
                       const Patch *patch, int16_t *apart)
{
    const int reach = reference->edge - 1;
    const int y = clamped(top * STEPS + rounded(v * STEPS), -reach * STEPS,
                          (reference->height + reach - PATCH - 1) * STEPS);
    const int x = clamped(left * STEPS + rounded(u * STEPS), -reach * STEPS,
                          (reference->width + reach - PATCH - 1) * STEPS);
    const int16_t fy = y & (STEPS - 1), fx = x & (STEPS - 1);
    const uint8_t *at = reference->pixels + (intptr_t)(y >> 4) * reference->row + (x >> 4);
    uint16_t rows[PATCH + 1][PATCH];
    for (int i = 0; i <= PATCH; i++, at += reference->row)
        for (int j = 0; j < PATCH; j++)
            rows[i][j] = at[j] * (STEPS - fx) + at[j + 1] * fx;
    for (int i = 0; i < PATCH; i++) {
        for (int j = 0; j < PATCH; j++) {
            uint16_t mixed = rows[i][j] * (STEPS - fy) + rows[i + 1][j] * fy + STEPS / 2;
            apart[i * PATCH + j] = (int16_t)(mixed >> 4) - patch->template[i * PATCH + j];
        }
    }
    int32_t sum = 0, squares = 0;
    for (int i = 0; i < AREA; i++) {
        sum += apart[i];
        squares += apart[i] * apart[i];
    }
    return squares - (((int64_t)sum * sum) >> 6);
}

// Return whether there is a step to take from where a patch differs by `apart`.
static int step(const Patch *patch, const int16_t *apart, float stiffness, float *du, float *dv)
{
    int32_t sum = 0, x = 0, y = 0;
    for (int i = 0; i < AREA; i++) {
        sum += apart[i];
        x += patch->across[i] * apart[i];
        y += patch->down[i] * apart[i];
    }
    const float bx = (float)(x - (int32_t)(((int64_t)patch->sum_x * sum) >> 6));
    const float by = (float)(y - (int32_t)(((int64_t)patch->sum_y * sum) >> 6));
    const float xx = (float)patch->xx + stiffness, yy = (float)patch->yy + stiffness;
    const float xy = (float)patch->xy;
    const float a = xx * yy, b = xy * xy;
    const float scale = -0.125f / (a - b); // gradients are doubled, differences in 1/16 levels
    const float x1 = yy * bx, x2 = xy * by, y1 = xx * by, y2 = xy * bx;
    *du = (x1 - x2) * scale;
    *dv = (y1 - y2) * scale;
    return a - b > 0;
}

typedef struct {
    int32_t rows, columns, iterations;
    float stiffness; // holds a vector to where it started, as so much squared gradient would
} Search;

// Mark the cells of a level, [rows, columns], whose pixels differ from those at the same place of
// the reference by more than `most` in sum.
EXPORTED void carfilter_motion_differing(const Level *target, const Level *reference, int32_t rows,
                                int32_t columns, int32_t most, uint8_t *marks)
{
    for (int row = 0; row < rows; row++) {
        const int lines = target->height - CELL * row < CELL ? target->height - CELL * row : CELL;
        for (int column = 0; column < columns; column += TOGETHER) {
            const intptr_t top = (intptr_t)CELL * row, left = (intptr_t)CELL * column;
            const uint8_t *a = target->pixels + top * target->row + left;
            const uint8_t *b = reference->pixels + top * reference->row + left;
            uint16_t sums[CELL * TOGETHER] = {0}; // beyond the last column the edge repeats it
            for (int y = 0; y < lines; y++, a += target->row, b += reference->row)
                for (int x = 0; x < CELL * TOGETHER; x++)
                    sums[x] += a[x] > b[x] ? a[x] - b[x] : b[x] - a[x];
            uint8_t *mark = marks + row * columns + column;
            for (int i = 0; i < TOGETHER && i < columns - column; i++)
                mark[i] = sums[CELL * i] + sums[CELL * i + 1] + sums[CELL * i + 2] +
                              sums[CELL * i + 3] > most;
        }
    }
}

// Find the vector of each cell of a level, [rows, columns, 2] as (x, y) in its pixels, from the
// best of no motion and up to two guesses [rows, columns, 2]; and how far each 2x2 pixels of its
// patch then differ, [rows, columns, 4, 4] in 1/16 levels. Cells that are not marked do not move.
EXPORTED void carfilter_motion_search(const Level *target, const Level *reference, const Search *search,
                             const uint8_t *marks, const float *first, const float *second,
                             float *vectors, uint16_t *errors)
{
    Patch patch;
    int16_t apart[2][AREA];
    for (int row = 0; row < search->rows; row++) {
        for (int column = 0; column < search->columns; column++) {
            const int cell = row * search->columns + column;
            if (!marks[cell]) {
                vectors[2 * cell] = vectors[2 * cell + 1] = 0;
                memset(errors + cell * 16, 0, 16 * sizeof *errors);
                continue;
            }
            const int top = row * CELL - CELL / 2, left = column * CELL - CELL / 2;
            take_patch(target, top, left, &patch);
            int best = 0;
            float u = 0, v = 0;
            int64_t error = compare(reference, top, left, u, v, &patch, apart[best]);
            if (error > 0) {
                for (int guess = 0; guess < 2; guess++) {
                    const float *from = guess ? second : first;
                    if (!from || (from[2 * cell] == u && from[2 * cell + 1] == v))
                        continue;
                    const int64_t other = compare(reference, top, left, from[2 * cell],
                                                  from[2 * cell + 1], &patch, apart[!best]);
                    if (other < error) {
                        best = !best;
                        error = other;
                        u = from[2 * cell];
                        v = from[2 * cell + 1];
                    }
                }
                const float u0 = u, v0 = v;
                for (int i = 0; i < search->iterations; i++) {
                    float du, dv;
                    if (!step(&patch, apart[best], search->stiffness, &du, &dv))
                        break;
                    if (__builtin_fabsf(du) < 0.03125f && __builtin_fabsf(dv) < 0.03125f)
                        break;
                    const float u1 = u + du, v1 = v + dv;
                    if (!(__builtin_fabsf(u1 - u0) < PATCH && __builtin_fabsf(v1 - v0) < PATCH))
                        break;
                    const int64_t other =
                        compare(reference, top, left, u1, v1, &patch, apart[!best]);
                    if (other >= error)
                        break;
                    best = !best;
                    error = other;
                    u = u1;
                    v = v1;
                }
            }
            vectors[2 * cell] = u;
            vectors[2 * cell + 1] = v;
            for (int i = 0; i < 4; i++) {
                for (int j = 0; j < 4; j++) {
                    const int16_t *at = apart[best] + 2 * i * PATCH + 2 * j;
                    errors[cell * 16 + i * 4 + j] =
                        (uint16_t)(__builtin_abs(at[0]) + __builtin_abs(at[1]) +
                                   __builtin_abs(at[PATCH]) + __builtin_abs(at[PATCH + 1]));
                }
            }
        }
    }
}

// Return whether the patches of two rows and two columns of cells, of which one may lie outside,
// do not move.
static int stands(const float *vectors, int row, int beside_row, int column, int beside, int rows,
                  int columns)
{
    const intptr_t r = row * columns, s = clamped(beside_row, 0, rows - 1) * columns;
    const int c = clamped(beside, 0, columns - 1);
    const float *a = vectors + 2 * (r + column), *b = vectors + 2 * (r + c);
    const float *d = vectors + 2 * (s + column), *e = vectors + 2 * (s + c);
    return a[0] == 0 && a[1] == 0 && b[0] == 0 && b[1] == 0 && d[0] == 0 && d[1] == 0 &&
           e[0] == 0 && e[1] == 0;
}

// Blend the vectors of the up to four patches that cover each 2x2 pixels, by how well they explain
// them: [2 rows, 2 columns, 2], times `scale`.
EXPORTED void carfilter_motion_blend(const float *vectors, const uint16_t *errors, int32_t rows,
                            int32_t columns, float scale, float *blended)
{
    for (int y = 0; y < 2 * rows; y++) {
        const int row = y >> 1, beside_row = y & 1 ? row + 1 : row - 1;
        for (int x = 0; x < 2 * columns; x++) {
            const int column = x >> 1, beside = x & 1 ? column + 1 : column - 1;
            float u = 0, v = 0, weights = 0;
            if (stands(vectors, row, beside_row, column, beside, rows, columns)) {
                blended[2 * (y * 2 * columns + x)] = blended[2 * (y * 2 * columns + x) + 1] = 0;
                continue;
            }
            for (int i = 0; i < 4; i++) {
                const int r = i & 2 ? beside_row : row, c = i & 1 ? beside : column;
                if (r < 0 || r >= rows || c < 0 || c >= columns)
                    continue;
                const int part_y = i & 2 ? (y & 1 ? 0 : 3) : 1 + (y & 1);
                const int part_x = i & 1 ? (x & 1 ? 0 : 3) : 1 + (x & 1);
                const int cell = r * columns + c;
                const float weight = 1.0f / (float)(errors[cell * 16 + part_y * 4 + part_x] + 64);
                const float wu = weight * vectors[2 * cell], wv = weight * vectors[2 * cell + 1];
                u += wu;
                v += wv;
                weights += weight;
            }
            blended[2 * (y * 2 * columns + x)] = u / weights * scale;
            blended[2 * (y * 2 * columns + x) + 1] = v / weights * scale;
        }
    }
}

// Halve a picture or level by the mean of 2x2 pixels, and repeat its border around it.
EXPORTED void carfilter_motion_halve(const uint8_t *pixels, int32_t height, int32_t width, int32_t row,
                            uint8_t *halved, int32_t half_row, int32_t edge)
{
    const int rows = (height + 1) / 2, columns = (width + 1) / 2, even = width / 2;
    for (int y = 0; y < rows; y++) {
        const uint8_t *upper = pixels + (intptr_t)2 * y * row;
        const uint8_t *lower = 2 * y + 1 < height ? upper + row : upper;
        uint8_t *out = halved + (intptr_t)y * half_row;
        for (int x = 0; x < even; x++) { // of pairs of bytes compilers make better vectors
            uint16_t above, below;
            memcpy(&above, upper + 2 * x, sizeof above);
            memcpy(&below, lower + 2 * x, sizeof below);
            const uint16_t sum = (above & 255) + (above >> 8) + (below & 255) + (below >> 8);
            out[x] = (uint8_t)((sum + 2) >> 2);
        }
        if (even < columns)
            out[even] = (uint8_t)((2 * upper[width - 1] + 2 * lower[width - 1] + 2) >> 2);
        memset(out - edge, out[0], (size_t)edge);
        memset(out + columns, out[columns - 1], (size_t)(half_row - edge - columns));
    }
    for (int y = 1; y <= edge; y++) {
        uint8_t *first = halved - edge, *last = first + (intptr_t)(rows - 1) * half_row;
        memcpy(first - (intptr_t)y * half_row, first, (size_t)half_row);
        memcpy(last + (intptr_t)y * half_row, last, (size_t)half_row);
    }
}

typedef struct {
    const void *picture, *reference; // [H, W]
    const int16_t *field;            // [ceil(H/4), columns, 2]
    uint8_t *moving;                 // blocks that do, [.., columns]; in the end those that stay so
    const uint8_t *near;             // and those beside them
    const int16_t (*filters)[TAPS];
    int32_t height, width, columns, most, less;
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
