// What motion.c asks of 8x8 pixels: in vectors of x86-64, else as it is written; the same numbers.
#pragma once

#include "levels.h"

enum {
    PATCH = 8, // pixels of a patch, whose middle its cell is
    AREA = PATCH * PATCH,
};

typedef struct {
    int16_t template[AREA], across[AREA], down[AREA];
} Slopes;

#ifdef __AVX2__
#include <immintrin.h>

static int32_t total(__m256i sums)
{
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    return _mm_cvtsi128_si32(half);
}

static __m256i plus_products(__m256i sums, __m256i one, __m256i other)
{
    return _mm256_add_epi32(sums, _mm256_madd_epi16(one, other));
}

static __m256i two_rows(const uint8_t *at, int row)
{
    return _mm256_cvtepu8_epi16(_mm_set_epi64x(eight(at + row), eight(at)));
}

// Return two rows, each pixel mixed with the one to its right.
static __m256i mixed_rows(const uint8_t *at, int row, __m256i weights)
{
    const __m256i pixels =
        _mm256_set_epi64x(eight(at + row + 1), eight(at + row), eight(at + 1), eight(at));
    const __m256i pairs = _mm256_unpacklo_epi8(pixels, _mm256_srli_si256(pixels, 8));
    return _mm256_maddubs_epi16(pairs, weights);
}

// Fill a patch in 1/16 levels, its slopes, and the sums of xx, xy, yy, x and y over these.
static void take(const uint8_t *at, int row, Slopes *patch, int32_t sums[5])
{
    const __m256i one = _mm256_set1_epi16(1);
    __m256i all[5] = {0};
    for (int i = 0; i < AREA; i += 2 * PATCH, at += 2 * (intptr_t)row) {
        const __m256i x = _mm256_sub_epi16(two_rows(at + 1, row), two_rows(at - 1, row));
        const __m256i y = _mm256_sub_epi16(two_rows(at + row, row), two_rows(at - row, row));
        const __m256i pixels = _mm256_slli_epi16(two_rows(at, row), 4);
        _mm256_storeu_si256((__m256i *)(patch->template + i), pixels);
        _mm256_storeu_si256((__m256i *)(patch->across + i), x);
        _mm256_storeu_si256((__m256i *)(patch->down + i), y);
        all[0] = plus_products(all[0], x, x);
        all[1] = plus_products(all[1], x, y);
        all[2] = plus_products(all[2], y, y);
        all[3] = plus_products(all[3], x, one);
        all[4] = plus_products(all[4], y, one);
    }
    for (int i = 0; i < 5; i++)
        sums[i] = total(all[i]);
}

// Fill what a patch differs by from the pixels at (fx, fy) sixteenths beside `at`, and the sum of
// that and of its squares.
static void differ(const uint8_t *at, int row, int fx, int fy, const int16_t *template,
                   int16_t *apart, int32_t *sum, int32_t *squares)
{
    const __m256i across = _mm256_set1_epi16((int16_t)((STEPS - fx) | fx << 8));
    const __m256i down = _mm256_set1_epi16((int16_t)fy), half = _mm256_set1_epi16(STEPS / 2);
    __m256i sums = _mm256_setzero_si256(), powers = sums, here = mixed_rows(at, row, across);
    for (int i = 0; i < AREA; i += 2 * PATCH) {
        at += 2 * (intptr_t)row;
        // Below the last two rows one is looked at.
        const __m256i next = mixed_rows(at, i + 2 * PATCH < AREA ? row : 0, across);
        const __m256i below = _mm256_permute2x128_si256(here, next, 0x21);
        // here x (16 - fy) + below x fy: what overflows on the way there cancels out
        const __m256i change = _mm256_mullo_epi16(_mm256_sub_epi16(below, here), down);
        const __m256i mixed = _mm256_add_epi16(_mm256_slli_epi16(here, 4), change);
        const __m256i found = _mm256_srli_epi16(_mm256_add_epi16(mixed, half), 4);
        const __m256i wanted = _mm256_loadu_si256((const __m256i *)(template + i));
        const __m256i differs = _mm256_sub_epi16(found, wanted);
        _mm256_storeu_si256((__m256i *)(apart + i), differs);
        sums = plus_products(sums, differs, _mm256_set1_epi16(1));
        powers = plus_products(powers, differs, differs);
        here = next;
    }
    *sum = total(sums);
    *squares = total(powers);
}

// Fill the sums of what a patch differs by, and of its products with the slopes.
static void lean(const Slopes *patch, const int16_t *apart, int32_t sums[3])
{
    __m256i all[3] = {0};
    for (int i = 0; i < AREA; i += 2 * PATCH) {
        const __m256i differs = _mm256_loadu_si256((const __m256i *)(apart + i));
        const __m256i x = _mm256_loadu_si256((const __m256i *)(patch->across + i));
        const __m256i y = _mm256_loadu_si256((const __m256i *)(patch->down + i));
        all[0] = plus_products(all[0], differs, _mm256_set1_epi16(1));
        all[1] = plus_products(all[1], x, differs);
        all[2] = plus_products(all[2], y, differs);
    }
    for (int i = 0; i < 3; i++)
        sums[i] = total(all[i]);
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

static void lean(const Slopes *patch, const int16_t *apart, int32_t sums[3])
{
    memset(sums, 0, 3 * sizeof *sums);
    for (int i = 0; i < AREA; i++) {
        sums[0] += apart[i];
        sums[1] += patch->across[i] * apart[i];
        sums[2] += patch->down[i] * apart[i];
    }
}

#endif
