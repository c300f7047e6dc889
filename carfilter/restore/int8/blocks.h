// What move.c does with whole blocks of 8-bit samples, in vectors of x86-64; the same numbers.
#pragma once

#include <immintrin.h>

#include "levels.h"

// Return four samples, or eight, as one number.
static int32_t four_at(const uint8_t *samples)
{
    int32_t four;
    memcpy(&four, samples, sizeof four);
    return four;
}

static int64_t eight_at(const uint8_t *samples)
{
    int64_t eight;
    memcpy(&eight, samples, sizeof eight);
    return eight;
}

// Return the sum of the absolute differences of a block and one whose rows lie together.
static int32_t block_apart(const uint8_t *one, int row, const uint8_t *other)
{
    __m128i block = _mm_cvtsi32_si128(four_at(one));
    block = _mm_insert_epi32(block, four_at(one + row), 1);
    block = _mm_insert_epi32(block, four_at(one + 2 * (intptr_t)row), 2);
    block = _mm_insert_epi32(block, four_at(one + 3 * (intptr_t)row), 3);
    const __m128i sums = _mm_sad_epu8(block, _mm_loadu_si128((const __m128i *)other));
    return _mm_cvtsi128_si32(sums) + _mm_extract_epi16(sums, 4);
}

// Fill the sums of the absolute differences of eight blocks beside each other.
static void eight_apart(const uint8_t *one, const uint8_t *other, int row, int32_t *apart)
{
    const __m256i ones = _mm256_set1_epi8(1);
    __m256i pairs = _mm256_setzero_si256();
    for (int i = 0; i < BLOCK; i++, one += row, other += row) {
        const __m256i a = _mm256_loadu_si256((const __m256i *)one);
        const __m256i b = _mm256_loadu_si256((const __m256i *)other);
        const __m256i either = _mm256_or_si256(_mm256_subs_epu8(a, b), _mm256_subs_epu8(b, a));
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(either, ones));
    }
    const __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    _mm256_storeu_si256((__m256i *)apart, sums);
}

static __m256i pairs_of_bytes(const int16_t *weights)
{
    return _mm256_set1_epi16((int16_t)((weights[0] & 255) | weights[1] * 256));
}

static __m256i pairs_of_words(const int16_t *weights)
{
    return _mm256_set1_epi32(four_at((const uint8_t *)weights));
}

// Return rows 0, 1, 2 and `last` from `at` on, two in each half: of four samples, each the weighted
// sum of four across.
static __m256i lines_at(const uint8_t *at, int row, int last, __m256i first_two, __m256i last_two)
{
    // Of eight samples the first and second of the four that make each sum.
    const __m256i left = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 1, 2, 2, 3, 3, 4, 8, 9, 9, 10, 10, 11, 11, 12));
    const __m256i right = _mm256_add_epi8(left, _mm256_set1_epi8(2));
    const __m256i samples =
        _mm256_set_epi64x(eight_at(at + last * (intptr_t)row), eight_at(at + 2 * (intptr_t)row),
                          eight_at(at + row), eight_at(at));
    return _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_shuffle_epi8(samples, left), first_two),
                            _mm256_maddubs_epi16(_mm256_shuffle_epi8(samples, right), last_two));
}

// Return each sample of the first row of each half beside the one below it.
static __m256i beside_below(__m256i rows)
{
    return _mm256_unpacklo_epi16(rows, _mm256_unpackhi_epi64(rows, rows));
}

// Fill a block from the 7x7 samples from `at` on, filtered across and then down.
static void filter_block(const uint8_t *at, int row, const int16_t *across, const int16_t *down,
                         uint8_t *out)
{
    const __m256i first_two = pairs_of_bytes(across), last_two = pairs_of_bytes(across + 2);
    const uint8_t *fifth = at + 4 * (intptr_t)row;
    const __m256i upper = lines_at(at, row, 3, first_two, last_two);      // rows 0 1, 2 3
    const __m256i lower = lines_at(fifth, row, 2, first_two, last_two);   // 4 5, 6 6
    const __m256i middle = _mm256_permute2x128_si256(upper, lower, 0x21); // 2 3, 4 5
    const __m256i odd = _mm256_alignr_epi8(middle, upper, 8);             // 1 2, 3 4
    const __m256i last = _mm256_alignr_epi8(lower, middle, 8);            // 3 4, 5 6
    const __m256i above = pairs_of_words(down), below = pairs_of_words(down + 2);
    const __m256i half = _mm256_set1_epi32(2048);
    // Rows 0 and 2 of the block, and rows 1 and 3.
    const __m256i evens = _mm256_add_epi32(_mm256_madd_epi16(beside_below(upper), above),
                                           _mm256_madd_epi16(beside_below(middle), below));
    const __m256i odds = _mm256_add_epi32(_mm256_madd_epi16(beside_below(odd), above),
                                          _mm256_madd_epi16(beside_below(last), below));
    // To bytes, which holds them between 0 and 255.
    const __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(evens, half), 12),
                                             _mm256_srai_epi32(_mm256_add_epi32(odds, half), 12));
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08);
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(bytes));
}
