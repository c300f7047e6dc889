// The levels of pyramids, and marks of their cells: what motion.c and move.c share.
#pragma once

#include "exported.h"

enum {
    CELL = 4,       // pixels of a level to a side that have one patch
    STEPS = 16,     // of a pixel, to which vectors are rounded
    BLOCK = 4,      // pixels of the picture to a side that have one vector
    TOGETHER = 4,   // cells that are compared at a time: as many as the edge has room for
    EDGE = 16,      // pixels around each level of a pyramid
};

typedef struct {
    uint8_t *pixels; // of the top left corner; EDGE more lie around the level
    int height, width, row;
    int rows, columns; // of cells
} Level;

static int clamped(int value, int least, int most)
{
    return value < least ? least : value > most ? most : value;
}

// Lay out the levels of a picture's pyramid in its memory, the finest first.
static void lay_out(uint8_t *pixels, int height, int width, int count, Level *levels)
{
    for (int i = 0; i < count; i++) {
        height = (height + 1) / 2;
        width = (width + 1) / 2;
        const int row = width + 2 * EDGE;
        levels[i] = (Level){pixels + (intptr_t)EDGE * row + EDGE, height, width, row,
                            (height + CELL - 1) / CELL, (width + CELL - 1) / CELL};
        pixels += (intptr_t)(height + 2 * EDGE) * row;
    }
}

// Halve a picture or level by the mean of 2x2 pixels, and repeat its border around it.
static void halve(const uint8_t *pixels, int height, int width, int row, const Level *half)
{
    const int rows = half->height, columns = half->width, even = width / 2;
    for (int y = 0; y < rows; y++) {
        const uint8_t *upper = pixels + (intptr_t)2 * y * row;
        const uint8_t *lower = 2 * y + 1 < height ? upper + row : upper;
        uint8_t *out = half->pixels + (intptr_t)y * half->row;
        for (int x = 0; x < even; x++) { // of pairs of bytes compilers make better vectors
            uint16_t above, below;
            memcpy(&above, upper + 2 * x, sizeof above);
            memcpy(&below, lower + 2 * x, sizeof below);
            const uint16_t sum = (above & 255) + (above >> 8) + (below & 255) + (below >> 8);
            out[x] = (uint8_t)((sum + 2) >> 2);
        }
        if (even < columns)
            out[even] = (uint8_t)((2 * upper[width - 1] + 2 * lower[width - 1] + 2) >> 2);
        memset(out - EDGE, out[0], EDGE);
        memset(out + columns, out[columns - 1], EDGE);
    }
    uint8_t *first = half->pixels - EDGE, *last = first + (intptr_t)(rows - 1) * half->row;
    for (int y = 1; y <= EDGE; y++) {
        memcpy(first - (intptr_t)y * half->row, first, (size_t)half->row);
        memcpy(last + (intptr_t)y * half->row, last, (size_t)half->row);
    }
}

// Mark the cells whose pixels differ from those at the same place of the reference by more than
// `most` in sum; return whether there are any.
static int mark(const Level *target, const Level *reference, int most, uint8_t *marks)
{
    int any = 0;
    for (int row = 0; row < target->rows; row++, marks += target->columns) {
        const int lines = target->height - CELL * row < CELL ? target->height - CELL * row : CELL;
        for (int column = 0; column < target->columns; column += TOGETHER) {
            const intptr_t at = (intptr_t)CELL * row * target->row + CELL * column;
            const uint8_t *a = target->pixels + at, *b = reference->pixels + at;
            uint16_t sums[CELL * TOGETHER] = {0}; // beyond the last column the edge repeats it
            for (int y = 0; y < lines; y++, a += target->row, b += target->row)
                for (int x = 0; x < CELL * TOGETHER; x++)
                    sums[x] += a[x] > b[x] ? a[x] - b[x] : b[x] - a[x];
            for (int i = 0; i < TOGETHER && i < target->columns - column; i++)
                any |= marks[column + i] = sums[CELL * i] + sums[CELL * i + 1] +
                                               sums[CELL * i + 2] + sums[CELL * i + 3] > most;
        }
    }
    return any;
}

// Mark what is marked, [rows, columns], and the eight beside each.
static void grow(const uint8_t *marks, int rows, int columns, uint8_t *grown)
{
    for (int row = 0; row < rows; row++) {
        const uint8_t *at = marks + (intptr_t)row * columns;
        const uint8_t *above = row ? at - columns : at, *below = row + 1 < rows ? at + columns : at;
        uint8_t *out = grown + (intptr_t)row * columns;
        uint8_t left = 0, here = above[0] | at[0] | below[0];
        for (int x = 0; x < columns; x++) {
            const int next = x + 1 < columns ? x + 1 : x;
            const uint8_t right = above[next] | at[next] | below[next];
            out[x] = left | here | right;
            left = here;
            here = right;
        }
    }
}

// Mark where any of 2x2 of a finer level, [rows, columns], is marked.
static void gather(const uint8_t *finer, int rows, int columns, uint8_t *marks)
{
    for (int y = 0; y < rows; y += 2) {
        const uint8_t *upper = finer + (intptr_t)y * columns;
        const uint8_t *lower = y + 1 < rows ? upper + columns : upper;
        for (int x = 0; x < columns; x += 2) {
            const int next = x + 1 < columns ? x + 1 : x;
            *marks++ = upper[x] | upper[next] | lower[x] | lower[next];
        }
    }
}
