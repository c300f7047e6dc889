// Motion between two pictures: what carfilter/restore/motion/plain.py computes, bit by bit, and
// many times as fast.
//
// Patches are matched by inverse compositional search and blended by how well each explains a
// pixel, after Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016,
// https://arxiv.org/abs/1603.03590. All sums are of integers, and what is left of floating point is
// done in one order.
#include "patches.h"

enum { MOST_LEVELS = 20 };

static const float LEAST = 1.0f / STEPS; // of a pixel: a smaller step is not taken

typedef struct {
    Slopes slopes;
    int32_t xx, xy, yy; // of the gradients, about their means
    int32_t sum_x, sum_y;
} Patch;

static int rounded(float value)
{
    return (int)__builtin_floorf(value + 0.5f);
}

// Fill the pyramid of a picture: `count` levels at a half, a quarter, ... of its size.
EXPORTED void carfilter_motion_pyramid(const uint8_t *luma, int32_t height, int32_t width,
                                       int64_t row, int32_t count, uint8_t *pixels)
{
    Level levels[MOST_LEVELS];
    lay_out(pixels, height, width, count, levels);
    halve(luma, height, width, (int)row, levels);
    for (int i = 1; i < count; i++)
        halve(levels[i - 1].pixels, levels[i - 1].height, levels[i - 1].width, levels[i - 1].row,
              levels + i);
}

static void take_patch(const Level *level, int top, int left, Patch *patch)
{
    int32_t sums[5];
    take(level->pixels + (intptr_t)top * level->row + left, level->row, &patch->slopes, sums);
    const int32_t x = sums[3], y = sums[4];
    patch->xx = sums[0] - ((x * x) >> 6);
    patch->xy = sums[1] - ((x * y) >> 6);
    patch->yy = sums[2] - ((y * y) >> 6);
    patch->sum_x = x;
    patch->sum_y = y;
}

// What a patch differs by at some place, in 1/16 levels, and the sum of that.
typedef struct {
    int16_t each[AREA];
    int32_t sum;
} Apart;

// Where a patch is compared: in sixteenths of a pixel of the reference.
typedef struct {
    int x, y;
} Place;

static Place place_of(const Level *reference, int top, int left, float u, float v)
{
    const int reach = EDGE - 1;
    const Place place = {
        clamped(left * STEPS + rounded(u * STEPS), -reach * STEPS,
                (reference->width + reach - PATCH - 1) * STEPS),
        clamped(top * STEPS + rounded(v * STEPS), -reach * STEPS,
                (reference->height + reach - PATCH - 1) * STEPS),
    };
    return place;
}

static int are_one(Place one, Place other)
{
    return one.x == other.x && one.y == other.y;
}

// Fill what a patch differs by from a place of the reference; return the sum of its squares about
// its mean.
static int64_t compare(const Level *reference, Place place, const Patch *patch, Apart *apart)
{
    const int x = place.x, y = place.y;
    const uint8_t *at = reference->pixels + (intptr_t)(y >> 4) * reference->row + (x >> 4);
    int32_t squares;
    differ(at, reference->row, x & (STEPS - 1), y & (STEPS - 1), patch->slopes.template,
           apart->each, &apart->sum, &squares);
    return squares - (((int64_t)apart->sum * apart->sum) >> 6);
}

// Return whether there is a step to take from where a patch differs by `apart`.
static int step(const Patch *patch, const Apart *apart, float stiffness, float *du, float *dv)
{
    int32_t across, down;
    lean(&patch->slopes, apart->each, &across, &down);
    const int64_t sum = apart->sum;
    const float bx = (float)(across - (int32_t)((patch->sum_x * sum) >> 6));
    const float by = (float)(down - (int32_t)((patch->sum_y * sum) >> 6));
    const float xx = (float)patch->xx + stiffness, yy = (float)patch->yy + stiffness;
    const float xy = (float)patch->xy;
    const float a = xx * yy, b = xy * xy;
    const float scale = -0.125f / (a - b); // gradients are doubled, differences in 1/16 levels
    const float x1 = yy * bx, x2 = xy * by, y1 = xx * by, y2 = xy * bx;
    *du = (x1 - x2) * scale;
    *dv = (y1 - y2) * scale;
    return a - b > 0;
}

// What is found of a row of cells, with one more to each side that has no weight: vectors as (x, y)
// in pixels of the level, and how well each 2x2 pixels of the patches are explained by them.
typedef struct {
    float *u, *v, *weights[4][4];
    int moves;
} Cells;

// Vectors as (x, y), and where each is to start.
typedef struct {
    const float *u, *v; // of the level's cells by the coarser one, rows of `row`; or none
    int row;
    const int16_t *guess; // of each block of the picture, [rows, columns, 2] in sixteenths; or none
    int rows, columns, scale; // blocks to a side of a cell
} Starts;

// How pictures are searched; see Estimate in carfilter/restore/motion/kernels.py.
typedef struct {
    int32_t height, width, levels, most, iterations;
    float stiffness;
} Estimate;

static int start_of(const Starts *starts, int which, int row, int column, float *u, float *v)
{
    if (which == 0) {
        if (!starts->u)
            return 0;
        *u = starts->u[(intptr_t)row * starts->row + column];
        *v = starts->v[(intptr_t)row * starts->row + column];
        return 1;
    }
    if (!starts->guess)
        return 0;
    const int y = clamped(row * starts->scale + starts->scale / 2, 0, starts->rows - 1);
    const int x = clamped(column * starts->scale + starts->scale / 2, 0, starts->columns - 1);
    const int16_t *at = starts->guess + 2 * ((intptr_t)y * starts->columns + x);
    const float part = 1.0f / (float)(STEPS * starts->scale);
    *u = (float)at[0] * part;
    *v = (float)at[1] * part;
    return 1;
}

// Find the vector of a cell, from the best of no motion and what it may start from, and what its
// patch then differs by.
static const Apart *search(const Level *target, const Level *reference, const Estimate *of,
                           const Starts *starts, int row, int column, float *at_u, float *at_v,
                           Apart apart[2])
{
    Patch patch;
    const int top = row * CELL - CELL / 2, left = column * CELL - CELL / 2;
    take_patch(target, top, left, &patch);
    int best = 0;
    float u = 0, v = 0, u1, v1;
    const Place still = place_of(reference, top, left, u, v);
    Place tried = still;
    int64_t error = compare(reference, still, &patch, apart + best);
    for (int which = 0; which < 2 && error > 0; which++) {
        if (!start_of(starts, which, row, column, &u1, &v1))
            continue;
        const Place place = place_of(reference, top, left, u1, v1);
        if (are_one(place, still) || are_one(place, tried))
            continue;
        tried = place;
        const int64_t other = compare(reference, place, &patch, apart + !best);
        if (other < error) {
            best = !best;
            error = other;
            u = u1;
            v = v1;
        }
    }
    const float u0 = u, v0 = v;
    for (int i = 0; i < of->iterations && error > 0; i++) {
        float du, dv;
        if (!step(&patch, apart + best, of->stiffness, &du, &dv))
            break;
        if (__builtin_fabsf(du) < LEAST && __builtin_fabsf(dv) < LEAST)
            break;
        u1 = u + du;
        v1 = v + dv;
        if (!(__builtin_fabsf(u1 - u0) < PATCH && __builtin_fabsf(v1 - v0) < PATCH))
            break;
        const Place place = place_of(reference, top, left, u1, v1);
        const int64_t other = compare(reference, place, &patch, apart + !best);
        if (other >= error)
            break;
        best = !best;
        error = other;
        u = u1;
        v = v1;
    }
    *at_u = u;
    *at_v = v;
    return apart + best;
}

// Search a row of cells; those that are not marked do not move.
static void search_row(const Level *target, const Level *reference, const Estimate *of,
                       const Starts *starts, int row, const uint8_t *marks, Cells *cells)
{
    Apart apart[2];
    const int columns = target->columns;
    cells->moves = 0;
    memset(cells->u, 0, (size_t)columns * sizeof *cells->u);
    memset(cells->v, 0, (size_t)columns * sizeof *cells->v);
    for (int i = 0; i < 16; i++)
        for (int column = 0; column < columns; column++)
            cells->weights[i / 4][i % 4][column] = 1.0f / LENIENCE;
    for (int column = 0; column < columns; column++) {
        if (!marks[column])
            continue;
        float u, v, weights[16];
        const Apart *found = search(target, reference, of, starts, row, column, &u, &v, apart);
        weigh(found->each, weights);
        for (int i = 0; i < 16; i++)
            cells->weights[i / 4][i % 4][column] = weights[i];
        cells->moves |= u != 0 || v != 0;
        cells->u[column] = u;
        cells->v[column] = v;
    }
}

// Blend the vectors of the four patches that cover each 2x2 pixels, by how well they explain
// them, in the lower half of a row of cells, or in the upper half of the next one, times `scale`.
static void blend_half(const Cells *upper, const Cells *lower, int half, int columns, float scale,
                       float *restrict out_u, float *restrict out_v)
{
    if (!upper->moves && !lower->moves) {
        memset(out_u, 0, 2 * (size_t)columns * sizeof *out_u);
        memset(out_v, 0, 2 * (size_t)columns * sizeof *out_v);
        return;
    }
    // Of the patch to the left and of that to the right, for the even columns and for the odd ones.
    float *const *above = upper->weights[2 + half], *const *below = lower->weights[half];
    const float *a0 = above[3] - 1, *b0 = above[1], *c0 = below[3] - 1, *d0 = below[1];
    const float *a1 = above[2], *b1 = above[0] + 1, *c1 = below[2], *d1 = below[0] + 1;
    const float *au = upper->u, *av = upper->v, *cu = lower->u, *cv = lower->v;
    for (int x = 0; x < columns; x++) {
        const float even = a0[x] + b0[x] + c0[x] + d0[x], odd = a1[x] + b1[x] + c1[x] + d1[x];
        const float even_u = a0[x] * au[x - 1] + b0[x] * au[x] + c0[x] * cu[x - 1] + d0[x] * cu[x];
        const float even_v = a0[x] * av[x - 1] + b0[x] * av[x] + c0[x] * cv[x - 1] + d0[x] * cv[x];
        const float odd_u = a1[x] * au[x] + b1[x] * au[x + 1] + c1[x] * cu[x] + d1[x] * cu[x + 1];
        const float odd_v = a1[x] * av[x] + b1[x] * av[x + 1] + c1[x] * cv[x] + d1[x] * cv[x + 1];
        out_u[2 * x] = even_u / even * scale;
        out_u[2 * x + 1] = odd_u / odd * scale;
        out_v[2 * x] = even_v / even * scale;
        out_v[2 * x + 1] = odd_v / odd * scale;
    }
}

// Cut rows of cells out of zeroed memory.
static float *cut(float *memory, int columns, Cells *cells)
{
    const int row = columns + 2;
    cells->u = memory + 1;
    cells->v = cells->u + row;
    for (int i = 0; i < 16; i++)
        cells->weights[i / 4][i % 4] = cells->v + (1 + i) * (intptr_t)row;
    cells->moves = 0;
    return memory + 18 * (intptr_t)row;
}

// Search a level and blend what is found to `rows` rows of `columns` vectors: into (u, v), or into
// a field where there is one.
static void search_level(const Level *target, const Level *reference, const Estimate *of,
                         const Starts *starts, const uint8_t *marks, float *memory, float *u,
                         float *v, int16_t *field)
{
    Cells none, cells[2];
    const int columns = target->columns, wide = 2 * columns;
    const int rows = (of->height + BLOCK - 1) / BLOCK, blocks = (of->width + BLOCK - 1) / BLOCK;
    memset(memory, 0, 3 * 18 * (size_t)(columns + 2) * sizeof *memory);
    memory = cut(cut(cut(memory, columns, &none), columns, cells), columns, cells + 1);
    for (int row = 0; row <= target->rows; row++) {
        const Cells *upper = row ? &cells[(row - 1) & 1] : &none, *lower = &none;
        if (row < target->rows) {
            lower = &cells[row & 1];
            search_row(target, reference, of, starts, row, marks + (intptr_t)row * columns,
                       &cells[row & 1]);
        }
        for (int half = row ? 0 : 1; half < (row < target->rows ? 2 : 1); half++) {
            const int y = 2 * row - 1 + half;
            float *out_u = field ? memory : u + (intptr_t)y * wide;
            float *out_v = field ? memory + wide : v + (intptr_t)y * wide;
            blend_half(upper, lower, half, columns, field ? 2.0f * STEPS : 2.0f, out_u, out_v);
            if (!field || y >= rows)
                continue;
            int16_t *out = field + 2 * (intptr_t)y * blocks;
            for (int x = 0; x < blocks; x++) {
                out[2 * x] = (int16_t)(int)__builtin_rintf(out_u[x]);
                out[2 * x + 1] = (int16_t)(int)__builtin_rintf(out_v[x]);
            }
        }
    }
}

// Fill the field of a picture's blocks, [ceil(H/4), ceil(W/4), 2] in sixteenths of a pixel, from
// the pyramids of two pictures. `guess` is another such field, or none. Return whether there is
// anything to search, or -1 without memory.
EXPORTED int carfilter_motion_field(uint8_t *picture, uint8_t *other, const Estimate *of,
                                       const int16_t *guess, int16_t *field)
{
    Level targets[MOST_LEVELS], references[MOST_LEVELS];
    lay_out(picture, of->height, of->width, of->levels, targets);
    lay_out(other, of->height, of->width, of->levels, references);
    const size_t cells = (size_t)targets[0].rows * targets[0].columns;
    const size_t floats = (3 * 18 + 4) * (size_t)(targets[0].columns + 2);
    const size_t plane = of->levels > 1 ? 4 * (size_t)targets[1].rows * targets[1].columns : 0;
    float *memory = malloc((floats + 4 * plane) * sizeof *memory + 3 * cells);
    if (!memory)
        return -1;
    float *coarse = memory + floats; // the planes u and v, of the level before and of this one
    uint8_t *fresh = (uint8_t *)(coarse + 4 * plane), *marks[MOST_LEVELS] = {fresh + cells};
    const int any = mark(targets, references, of->most, fresh);
    for (int i = 0; any && i < of->levels; i++) {
        const Level *level = targets + i;
        if (i)
            gather(marks[i - 1], targets[i - 1].rows, targets[i - 1].columns, fresh);
        grow(fresh, level->rows, level->columns, marks[i]);
        marks[i + 1] = marks[i] + (size_t)level->rows * level->columns;
    }
    Starts starts = {0};
    for (int i = of->levels - 1; any && i >= 0; i--) {
        float *u = coarse + (i & 1 ? 2 * plane : 0);
        starts.guess = guess;
        starts.rows = (of->height + BLOCK - 1) / BLOCK;
        starts.columns = (of->width + BLOCK - 1) / BLOCK;
        starts.scale = 2 << i;
        search_level(targets + i, references + i, of, &starts, marks[i], memory, u, u + plane,
                     i ? 0 : field);
        starts.u = u;
        starts.v = u + plane;
        starts.row = 2 * targets[i].columns;
    }
    free(memory);
    return any;
}
