// What motion.c asks of 8x8 pixels: in vectors of x86-64, else as it is written; the same numbers.
#pragma once

#include "levels.h"

enum {
    PATCH = 8, // pixels of a patch, whose middle its cell is
    AREA = PATCH * PATCH,
    LENIENCE = 64, // added to what 2x2 pixels differ by, in 1/16 levels, before that weighs
};

typedef struct {
    int16_t template[AREA], across[AREA], down[AREA];
} Slopes;

#ifdef __AVX2__
#include "vectors.h"

// Return rows from `at` on, a pixel and the one to its right side by side.
static Rows pairs_at(const uint8_t *at, int row)
{
    const __m128i pairs = _mm_setr_epi8(0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8);
    return OF(shuffle_epi8)(rows_at(at, row), in_each_row(pairs));
}

// Return eight pixels of each row, beginning with its first, second or third, in 16 bits.
static Rows pixels_of(Rows rows, int first)
{
    const __m128i eight = _mm_setr_epi8(0, -1, 1, -1, 2, -1, 3, -1, 4, -1, 5, -1, 6, -1, 7, -1);
    const __m128i from = _mm_add_epi16(eight, _mm_set1_epi16((int16_t)first));
    return OF(shuffle_epi8)(rows, in_each_row(from));
}

// Fill a patch in 1/16 levels, its slopes, and the sums of xx, xy, yy, x and y over these. What
// is read beside and below it, to whole vectors, lies in the edge of its level.
static void take(const uint8_t *at, int row, Slopes *patch, int32_t sums[5])
{
    const Rows one = OF(set1_epi16)(1);
    Rows xx = {0}, xy = {0}, yy = {0}, all_x = {0}, all_y = {0};
    Rows above = rows_at(at - row - 1, row);
    for (int i = 0; i < AREA; i += HELD * PATCH) {
        at += HELD * (intptr_t)row;
        const Rows next = rows_at(at - row - 1, row);
        const Rows here = BELOW(above, next, 1), below = BELOW(above, next, 2);
        const Rows x = OF(sub_epi16)(pixels_of(here, 2), pixels_of(here, 0));
        const Rows y = OF(sub_epi16)(pixels_of(below, 1), pixels_of(above, 1));
        put_rows(patch->template + i, OF(slli_epi16)(pixels_of(here, 1), 4));
        put_rows(patch->across + i, x);
        put_rows(patch->down + i, y);
        xx = plus_products(xx, x, x);
        xy = plus_products(xy, x, y);
        yy = plus_products(yy, y, y);
        all_x = OF(add_epi16)(all_x, x);
        all_y = OF(add_epi16)(all_y, y);
        above = next;
    }
    all_x = OF(madd_epi16)(all_x, one);
    all_y = OF(madd_epi16)(all_y, one);
    _mm_storeu_si128((__m128i *)sums, totals(xx, xy, yy, all_x));
    sums[4] = _mm_cvtsi128_si32(totals(all_y, all_y, all_y, all_y));
}

// Fill what a patch differs by from the pixels at (fx, fy) sixteenths beside `at`, and the sum of
// that and of its squares.
static void differ(const uint8_t *at, int row, int fx, int fy, const int16_t *template,
                   int16_t *apart, int32_t *sum, int32_t *squares)
{
    const Rows across = OF(set1_epi16)((int16_t)((STEPS - fx) | fx << 8));
    const Rows down = OF(set1_epi16)((int16_t)fy), half = OF(set1_epi16)(STEPS / 2);
    Rows sums = {0}, powers = {0}, here = OF(maddubs_epi16)(pairs_at(at, row), across);
    for (int i = 0; i < AREA; i += HELD * PATCH) {
        at += HELD * (intptr_t)row;
        // Below the last rows one is looked at.
        const Rows pairs = pairs_at(at, i + HELD * PATCH < AREA ? row : 0);
        const Rows next = OF(maddubs_epi16)(pairs, across), below = BELOW(here, next, 1);
        // here x (16 - fy) + below x fy: what overflows on the way there cancels out
        const Rows change = OF(mullo_epi16)(OF(sub_epi16)(below, here), down);
        const Rows mixed = OF(add_epi16)(OF(slli_epi16)(here, 4), change);
        const Rows found = OF(srli_epi16)(OF(add_epi16)(mixed, half), 4);
        const Rows differs = OF(sub_epi16)(found, get_rows(template + i));
        put_rows(apart + i, differs);
        sums = OF(add_epi16)(sums, differs);
        powers = plus_products(powers, differs, differs);
        here = next;
    }
    sums = OF(madd_epi16)(sums, OF(set1_epi16)(1));
    const __m128i both = totals(sums, powers, sums, powers);
    *sum = _mm_cvtsi128_si32(both);
    *squares = _mm_extract_epi32(both, 1);
}

// Fill the sums of the products of what a patch differs by and its slopes.
static void lean(const Slopes *patch, const int16_t *apart, int32_t *across, int32_t *down)
{
    Rows x = {0}, y = {0};
    for (int i = 0; i < AREA; i += HELD * PATCH) {
        const Rows differs = get_rows(apart + i);
        x = plus_products(x, get_rows(patch->across + i), differs);
        y = plus_products(y, get_rows(patch->down + i), differs);
    }
    const __m128i both = totals(x, y, x, y);
    *across = _mm_cvtsi128_si32(both);
    *down = _mm_extract_epi32(both, 1);
}

// Fill how well each 2x2 pixels are explained, [4][4], from what they differ by.
static void weigh(const int16_t *apart, float weights[16])
{
    const __m256i one = _mm256_set1_epi16(1);
    for (int i = 0; i < AREA; i += 4 * PATCH, apart += 4 * PATCH, weights += 8) {
        const __m256i *rows = (const __m256i *)apart;
        const __m256i two = _mm256_abs_epi16(_mm256_loadu_si256(rows));
        const __m256i last = _mm256_abs_epi16(_mm256_loadu_si256(rows + 1));
        const __m256i upper = _mm256_madd_epi16(two, one), lower = _mm256_madd_epi16(last, one);
        const __m256i sums = _mm256_add_epi32(_mm256_permute2x128_si256(upper, lower, 0x20),
                                              _mm256_permute2x128_si256(upper, lower, 0x31));
        const __m256 differ = _mm256_add_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(LENIENCE));
        _mm256_storeu_ps(weights, _mm256_div_ps(_mm256_set1_ps(1), differ));
    }
}

#else

static void take(const uint8_t *at, int row, Slopes *patch, int32_t sums[5])
{
    for (int i = 0; i < AREA; i += PATCH, at += row) {
        for (int x = 0; x < PATCH; x++) {
            patch->template[i + x] = at[x] * STEPS;
            patch->across[i + x] = at[x + 1] - at[x - 1];
            patch->down[i + x] = at[x + row] - at[x - row];
        }
    }
    memset(sums, 0, 5 * sizeof *sums);
    for (int i = 0; i < AREA; i++) {
        sums[0] += patch->across[i] * patch->across[i];
        sums[1] += patch->across[i] * patch->down[i];
        sums[2] += patch->down[i] * patch->down[i];
        sums[3] += patch->across[i];
        sums[4] += patch->down[i];
    }
}

static void differ(const uint8_t *at, int row, int fx, int fy, const int16_t *template,
                   int16_t *apart, int32_t *sum, int32_t *squares)
{
    const int16_t right = (int16_t)fx, down = (int16_t)fy;
    uint16_t rows[PATCH + 1][PATCH];
    for (int i = 0; i <= PATCH; i++, at += row)
        for (int j = 0; j < PATCH; j++)
            rows[i][j] = at[j] * (STEPS - right) + at[j + 1] * right;
    *sum = *squares = 0;
    for (int i = 0; i < PATCH; i++) {
        for (int j = 0; j < PATCH; j++) {
            uint16_t mixed = rows[i][j] * (STEPS - down) + rows[i + 1][j] * down + STEPS / 2;
            apart[i * PATCH + j] = (int16_t)(mixed >> 4) - template[i * PATCH + j];
        }
    }
    for (int i = 0; i < AREA; i++) {
        *sum += apart[i];
        *squares += apart[i] * apart[i];
    }
}

static void lean(const Slopes *patch, const int16_t *apart, int32_t *across, int32_t *down)
{
    *across = *down = 0;
    for (int i = 0; i < AREA; i++) {
        *across += patch->across[i] * apart[i];
        *down += patch->down[i] * apart[i];
    }
}

static void weigh(const int16_t *apart, float weights[16])
{
    for (int i = 0; i < 16; i++) {
        const int16_t *at = apart + i / 4 * 2 * PATCH + i % 4 * 2;
        const int sum = __builtin_abs(at[0]) + __builtin_abs(at[1]) + __builtin_abs(at[PATCH]) +
                        __builtin_abs(at[PATCH + 1]);
        weights[i] = 1.0f / ((float)sum + LENIENCE);
    }
}

#endif
