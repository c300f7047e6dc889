// Rows of eight samples of 16 bits, or of 16 of 8 bits, in a vector of x86-64: two, or four.
// BELOW() is the rows that begin one or two below others; `next` are those after these.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512BW__
#define OF(name) _mm512_##name
#define BELOW(rows, next, by) _mm512_alignr_epi64(next, rows, 2 * (by))
typedef __m512i Rows;
#else
#define OF(name) _mm256_##name
#define BELOW(rows, next, by) ((by) == 1 ? _mm256_permute2x128_si256(rows, next, 0x21) : (next))
typedef __m256i Rows;
#endif

enum { HELD = sizeof(Rows) / 16 }; // rows

static __m128i row_at(const uint8_t *at)
{
    return _mm_loadu_si128((const __m128i *)at);
}

static __m256i two_rows_at(const uint8_t *at, int row)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(row_at(at)), row_at(at + row), 1);
}

// Return rows of 16 samples.
static Rows rows_at(const uint8_t *at, int row)
{
    const __m256i two = two_rows_at(at, row);
#ifdef __AVX512BW__
    const __m256i last = two_rows_at(at + 2 * (intptr_t)row, row);
    return _mm512_inserti64x4(_mm512_castsi256_si512(two), last, 1);
#else
    return two;
#endif
}

static Rows in_each_row(__m128i row)
{
#ifdef __AVX512BW__
    return _mm512_broadcast_i32x4(row);
#else
    return _mm256_broadcastsi128_si256(row);
#endif
}

static Rows get_rows(const int16_t *at)
{
    Rows rows;
    memcpy(&rows, at, sizeof rows);
    return rows;
}

static void put_rows(int16_t *at, Rows rows)
{
    memcpy(at, &rows, sizeof rows);
}

static Rows plus_products(Rows sums, Rows one, Rows other)
{
    return OF(add_epi32)(sums, OF(madd_epi16)(one, other));
}

static __m128i folded(Rows sums)
{
#ifdef __AVX512BW__
    const __m256i upper = _mm512_extracti64x4_epi64(sums, 1);
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sums), upper);
#else
    const __m256i half = sums;
#endif
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// Return the sums of all numbers of 32 bits of each of four vectors.
static __m128i totals(Rows a, Rows b, Rows c, Rows d)
{
    const __m128i first = _mm_hadd_epi32(folded(a), folded(b));
    return _mm_hadd_epi32(first, _mm_hadd_epi32(folded(c), folded(d)));
}
