/* Vectors for dots.h: AVX-512 VNNI, AVX-VNNI, or AVX2 alone.
 *
 * LANES: sums in a vector. POSITIONS: as many have their sums of all outputs in registers. STEP:
 * bytes that the weights of four inputs take for each output. dot() is exact in all three.
 */
#include <immintrin.h>

/* Four bytes, or two numbers, as one to be spread over a vector. */
INLINE int32_t together(const void *inputs) {
    int32_t result;
    memcpy(&result, inputs, sizeof result);
    return result;
}

#ifdef __AVX512VNNI__

enum { LANES = 16, POSITIONS = 8, STEP = 4 };
typedef __m512i Lanes;
typedef __m512i Spread;
typedef __m512 Floats;
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, v) _mm512_storeu_si512(p, v)

INLINE Spread spread(const uint8_t *inputs) {
    return _mm512_set1_epi32(together(inputs));
}

INLINE Lanes dot(Lanes sum, Spread inputs, const int8_t *weights) {
    return _mm512_dpbusd_epi32(sum, inputs, LOAD(weights));
}

INLINE Floats fused(Floats a, Floats b, Floats c) {
    return _mm512_fmadd_ps(a, b, c);
}

INLINE Floats numbers(const uint8_t *codes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)codes)));
}

INLINE void put_codes(Floats values, uint8_t *out) {
    const Lanes positive = _mm512_max_epi32(_mm512_cvtps_epi32(values), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)out, _mm512_cvtusepi32_epi8(positive));
}

#else

enum { LANES = 8, POSITIONS = 2 };
typedef __m256i Lanes;
typedef __m256 Floats;
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define STORE(p, v) _mm256_storeu_si256((__m256i *)(p), v)

INLINE Lanes spread_words(const void *inputs) {
    return _mm256_set1_epi32(together(inputs));
}

INLINE Floats fused(Floats a, Floats b, Floats c) {
    return _mm256_fmadd_ps(a, b, c);
}

INLINE Floats numbers(const uint8_t *codes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)codes)));
}

INLINE void put_codes(Floats values, uint8_t *out) {
    const Lanes codes = _mm256_cvtps_epi32(values);
    const __m128i upper = _mm256_extracti128_si256(codes, 1);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(codes), upper);
    _mm_storel_epi64((__m128i *)out, _mm_packus_epi16(words, words));
}

#ifdef __AVXVNNI__

enum { STEP = 4 };
typedef __m256i Spread;

INLINE Spread spread(const uint8_t *inputs) {
    return spread_words(inputs);
}

INLINE Lanes dot(Lanes sum, Spread inputs, const int8_t *weights) {
    Lanes by = LOAD(weights);
    __asm__("" : "+x"(by)); /* GCC would read them from memory again for each position */
    return _mm256_dpbusd_avx_epi32(sum, inputs, by);
}

#else

/* VPMADDUBSW would saturate: it adds two products of bytes in 16 bits. So weights have 16 bits,
 * those of the inputs 0 and 2 first, then those of 1 and 3. */
#define WORDS
enum { STEP = 8 };
typedef struct {
    Lanes even, odd;
} Spread;

INLINE Spread spread(const uint8_t *inputs) {
    const Lanes all = spread_words(inputs);
    return (Spread){_mm256_and_si256(all, _mm256_set1_epi16(255)), _mm256_srli_epi16(all, 8)};
}

INLINE Lanes add_pairs(Lanes sum, Lanes inputs, Lanes weights) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(inputs, weights));
}

INLINE Lanes dot(Lanes sum, Spread inputs, const int8_t *weights) {
    sum = add_pairs(sum, inputs.even, LOAD(weights));
    return add_pairs(sum, inputs.odd, LOAD(weights + sizeof(Lanes)));
}

#endif
#endif
