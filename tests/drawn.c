/* Everything of motion.c, move.c and planes.c on drawn pictures, what comes of it on stdout: the
 * same bytes on each kind of CPU. Drawn with integers alone. */
#include "motion.c"
#include "move.c"
#undef SAMPLE
#undef SUM
#undef NAMED
#include "planes.c"

#include <stdio.h>

static void put(const void *memory, size_t bytes) {
    if (fwrite(memory, bytes, 1, stdout) != 1) exit(4);
}

/* Never given back: the program ends soon. */
static void *room(size_t bytes) {
    void *memory = calloc(bytes, 1);
    if (!memory) exit(3);
    return memory;
}

static uint32_t drawn(uint32_t x, uint32_t y, uint32_t seed) {
    uint32_t n = x * 0x9E3779B1u ^ y * 0x85EBCA77u ^ seed * 0xC2B2AE3Du;
    n = (n ^ n >> 15) * 0x2C1B3C6Du;
    return n ^ n >> 12;
}

/* Hills of all sizes and some noise, of a camera that moves with the picture's number. */
static int sample(int x, int y, int number, int depth) {
    uint32_t sum = drawn((uint32_t)x, (uint32_t)y, 90u + (uint32_t)number) & 7;
    x += 300 + 5 * number;
    y += 300 - 2 * number;
    for (int k = 1; k < 6; k++) {
        const uint32_t at = (uint32_t)(x >> k), below = (uint32_t)(y >> k);
        const uint32_t part = (uint32_t)x & ((1u << k) - 1), size = 1u << k;
        const uint32_t left = drawn(at, below, (uint32_t)k) & 63;
        const uint32_t right = drawn(at + 1, below, (uint32_t)k) & 63;
        sum += (left * (size - part) + right * part) >> k;
    }
    return (int)(sum * ((1u << depth) - 1) / 330);
}

static void *picture(int height, int width, int number, int depth) {
    const size_t size = depth > 8 ? 2 : 1;
    uint8_t *luma = room((size_t)height * width * size);
    for (int i = 0; i < height * width; i++) {
        const uint16_t level = (uint16_t)sample(i % width, i / width, number, depth);
        if (size == 1) luma[i] = (uint8_t)level;
        else memcpy(luma + 2 * i, &level, 2);
    }
    return luma;
}

static void *pyramid(const uint8_t *luma, int height, int width, int levels) {
    size_t bytes = 0;
    for (int i = 1; i <= levels; i++) {
        const int round = (1 << i) - 1;
        bytes += (size_t)(((height + round) >> i) + 2 * EDGE) * (((width + round) >> i) + 2 * EDGE);
    }
    void *pixels = room(bytes);
    carfilter_motion_pyramid(luma, height, width, width, levels, pixels);
    put(pixels, bytes);
    return pixels;
}

static const int16_t FILTERS[STEPS][TAPS] = {
    {0, 64, 0, 0}, {-2, 64, 2, 0}, {-3, 62, 5, 0}, {-4, 60, 9, -1}, {-4, 55, 14, -1},
    {-5, 51, 20, -2}, {-5, 46, 26, -3}, {-4, 41, 31, -4}, {-4, 36, 36, -4}, {-4, 31, 41, -4},
    {-3, 26, 46, -5}, {-2, 20, 51, -5}, {-1, 14, 55, -4}, {-1, 9, 60, -4}, {0, 5, 62, -3},
    {0, 2, 64, -2},
};

static int16_t *field(int height, int width, int levels) {
    void *luma[2] = {picture(height, width, 0, 8), picture(height, width, 1, 8)};
    uint8_t *one = pyramid(luma[0], height, width, levels);
    uint8_t *other = pyramid(luma[1], height, width, levels);
    const size_t bytes = (size_t)((height + 3) / 4) * ((width + 3) / 4) * 4;
    int16_t *found = room(bytes), *refined = room(bytes);
    Estimate of = {height, width, levels, 32, 4, 4096};
    if (carfilter_motion_field(one, other, &of, 0, found) != 1) exit(5);
    put(found, bytes);
    if (carfilter_motion_field(one, other, &of, found, refined) != 1) exit(5);
    put(refined, bytes);
    if (carfilter_motion_field(one, one, &of, found, refined) != 0) exit(5);
    return found;
}

static void moved(int height, int width, int depth, const int16_t *found) {
    void *luma[2] = {picture(height, width, 0, depth), picture(height, width, 1, depth)};
    const size_t bytes = (size_t)height * width * (depth > 8 ? 2 : 1);
    const size_t blocks = (size_t)((height + 3) / 4) * ((width + 3) / 4);
    uint8_t *moving = room(blocks), *out = room(bytes);
    const Move of = {luma[0], luma[1], found, FILTERS, height, width, (1 << depth) - 1,
                     216 << (depth - 8)};
    const int any = depth > 8 ? carfilter_motion_follow16(&of, moving, (uint16_t *)out)
                              : carfilter_motion_follow8(&of, moving, out);
    if (any != 1) exit(6);
    put(moving, blocks);
    put(out, bytes);
}

enum { PICTURES = 5, COUNT = 3 };

static void averaged(int height, int width, int depth) {
    const size_t samples = (size_t)height * width, bytes = samples * (depth > 8 ? 2 : 1);
    const size_t sums = samples * (depth > 8 ? 4 : 2);
    const int most = 16 * ((1 << depth) - 1), block = depth > 8 ? 32 : 16;
    float *table = room(((size_t)most + 1) * sizeof *table), *past = room(2 * samples * 4);
    for (int i = 0; i <= most; i++) table[i] = 0.96f / (1.0f + 0.01f * (float)i);
    const void *lumas[PICTURES];
    int64_t rows[PICTURES];
    const float amounts[COUNT] = {1.0f, 0.3f, 0.0f};
    void *averages[COUNT], *aparts[PICTURES] = {0};
    for (int i = 0; i < PICTURES; i++) {
        lumas[i] = picture(height, width, i, depth);
        rows[i] = width;
        if (i < COUNT) averages[i] = room(bytes);
        if (!i) continue;
        aparts[i] = room(sums);
        const void *before = lumas[i - 1], *luma = lumas[i];
        if (depth > 8 ? carfilter_planes_apart_16(before, luma, width, width, height, width, most, aparts[i])
                      : carfilter_planes_apart_8(before, luma, width, width, height, width, most, aparts[i]))
            exit(7);
        put(aparts[i], sums);
        if (i % 2) continue;
        const size_t marked = (size_t)((height + 3) / 4) * ((width + 3) / 4);
        uint8_t *marks = room(marked);
        for (size_t at = 0; at < marked; at++) marks[at] = at % 5 < 2;
        if (depth > 8) carfilter_planes_mask_16(aparts[i], height, width, marks, most);
        else carfilter_planes_mask_8(aparts[i], height, width, marks, most);
        put(aparts[i], sums);
        free(marks);
    }
    const Average of = {lumas, rows, (const void *const *)aparts, table, amounts, averages, past,
                        (int64_t)samples, PICTURES, COUNT, width};
    if (depth > 8 ? carfilter_planes_average_16(&of, 0, height)
                  : carfilter_planes_average_8(&of, 0, height)) exit(7);
    for (int i = 0; i < COUNT; i++) put(averages[i], bytes);
    put(past, 2 * samples * 4);
    const int row = width * (depth > 8 ? 2 : 1);
    const size_t blocks = (size_t)((height + 15) / 16) * ((width + 15) / 16);
    uint8_t *changed = room(blocks), *plane = averages[1];
    memcpy(plane, averages[0], bytes / 2);
    carfilter_planes_changed(plane, averages[0], row, row, height, row, block, changed);
    put(changed, blocks);
    for (size_t i = 0; i < blocks; i++) changed[i] ^= i % 3 == 0;
    carfilter_planes_keep(plane, averages[2], row, row, height, row, block, changed);
    put(plane, bytes);
}

int main(void) {
    static const int SIZES[][3] = {{131, 197, 4}, {96, 160, 3}, {33, 47, 1}, {64, 701, 3}};
    for (int i = 0; i < 4; i++) {
        const int height = SIZES[i][0], width = SIZES[i][1];
        int16_t *found = field(height, width, SIZES[i][2]);
        for (int depth = 8; depth <= 10; depth += 2) {
            moved(height, width, depth, found);
            averaged(height, width, depth);
        }
    }
    return 0;
}
