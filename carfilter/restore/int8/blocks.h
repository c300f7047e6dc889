// What move.c does with whole blocks of 8-bit samples, in vectors of x86-64; the same numbers.
#pragma once

#include <immintrin.h>

#include "levels.h"

static __m128i block_of(const uint8_t *samples, int row)
{
    int32_t lines[BLOCK];
    for (int i = 0; i < BLOCK; i++)
        memcpy(lines + i, samples + (intptr_t)i * row, sizeof *lines);
    return _mm_loadu_si128((const __m128i *)lines);
}

// Return the sum of the absolute differences of two blocks.
static int32_t blocks_apart(const uint8_t *one, int one_row, const uint8_t *other, int other_row)
{
    const __m128i sums = _mm_sad_epu8(block_of(one, one_row), block_of(other, other_row));
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4);
}

static __m128i pairs_of_bytes(const int16_t *weights)
{
    return _mm_set1_epi16((int16_t)((weights[0] & 255) | weights[1] * 256));
}

static __m128i pairs_of_words(const int16_t *weights)
{
    int32_t both;
    memcpy(&both, weights, sizeof both);
    return _mm_set1_epi32(both);
}

// Fill a block from the 7x7 samples from `at` on, filtered across and then down.
static void filter_block(const uint8_t *at, int row, const int16_t *across, const int16_t *down,
                         uint8_t *out)
{
    // Of two rows of eight samples each: the first and second of the four that make each of theirs.
    const __m128i left = _mm_setr_epi8(0, 1, 1, 2, 2, 3, 3, 4, 8, 9, 9, 10, 10, 11, 11, 12);
    const __m128i right = _mm_add_epi8(left, _mm_set1_epi8(2));
    __m128i lines[BLOCK];
    for (int i = 0; i < BLOCK; i++, at += 2 * (intptr_t)row) {
        const __m128i samples = _mm_set_epi64x(i + 1 < BLOCK ? eight(at + row) : 0, eight(at));
        lines[i] = _mm_add_epi16(
            _mm_maddubs_epi16(_mm_shuffle_epi8(samples, left), pairs_of_bytes(across)),
            _mm_maddubs_epi16(_mm_shuffle_epi8(samples, right), pairs_of_bytes(across + 2)));
    }
    __m128i pairs[BLOCK + 2]; // of each line and the next, sample by sample
    for (int i = 0; i < BLOCK + 2; i++) {
        const __m128i here = lines[i / 2], second = _mm_unpackhi_epi64(here, here);
        pairs[i] = i & 1 ? _mm_unpacklo_epi16(second, lines[i / 2 + 1])
                         : _mm_unpacklo_epi16(here, second);
    }
    __m128i sums[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        const __m128i upper = _mm_madd_epi16(pairs[i], pairs_of_words(down));
        const __m128i lower = _mm_madd_epi16(pairs[i + 2], pairs_of_words(down + 2));
        const __m128i sum = _mm_add_epi32(_mm_add_epi32(upper, lower), _mm_set1_epi32(2048));
        sums[i] = _mm_srai_epi32(sum, 12);
    }
    // To bytes, which holds them between 0 and 255.
    const __m128i first = _mm_packs_epi32(sums[0], sums[1]);
    const __m128i last = _mm_packs_epi32(sums[2], sums[3]);
    _mm_storeu_si128((__m128i *)out, _mm_packus_epi16(first, last));
}
