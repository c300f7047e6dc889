/* Vectors for dots.h on ARM64, by the names that lanes.h gives them on x86-64: NEON with
 * dot products (FEAT_DotProd), and with those of unsigned by signed bytes where the CPU has them
 * (FEAT_I8MM).
 *
 * Instructions: Arm Architecture Reference Manual for A-profile, C7.2, SDOT (vector) and USDOT.
 */
#include <arm_neon.h>

enum { LANES = 4, POSITIONS = 2, STEP = 4 };
typedef int32x4_t Lanes;
typedef float32x4_t Floats;
#define LOAD(p) vld1q_s32((const int32_t *)(p))
#define STORE(p, v) vst1q_s32(p, v)

INLINE uint8x16_t repeated(const uint8_t *inputs) {
    uint32_t four_inputs;
    memcpy(&four_inputs, inputs, sizeof four_inputs);
    return vreinterpretq_u8_u32(vdupq_n_u32(four_inputs));
}

#ifdef __ARM_FEATURE_MATMUL_INT8

typedef uint8x16_t Spread;

INLINE Spread spread(const uint8_t *inputs) {
    return repeated(inputs);
}

INLINE Lanes dot(Lanes sum, Spread inputs, const int8_t *weights) {
    return vusdotq_s32(sum, inputs, vld1q_s8(weights));
}

#else

/* SDOT takes signed bytes alone: inputs are less by 128 here, which the offset makes up for. */
typedef int8x16_t Spread;

INLINE Spread spread(const uint8_t *inputs) {
    return vreinterpretq_s8_u8(veorq_u8(repeated(inputs), vdupq_n_u8(128)));
}

INLINE Lanes dot(Lanes sum, Spread inputs, const int8_t *weights) {
    return vdotq_s32(sum, inputs, vld1q_s8(weights));
}

#endif

INLINE Floats fused(Floats a, Floats b, Floats c) {
    return vfmaq_f32(c, a, b);
}

INLINE Floats numbers(const uint8_t *codes) {
    uint32_t four_codes;
    memcpy(&four_codes, codes, sizeof four_codes);
    const uint16x8_t words = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four_codes)));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(words)));
}

INLINE void put_codes(Floats values, uint8_t *out) {
    const uint16x4_t words = vqmovun_s32(vcvtnq_s32_f32(values));
    const uint8x8_t codes = vqmovn_u16(vcombine_u16(words, words));
    vst1_lane_u32((uint32_t *)out, vreinterpret_u32_u8(codes), 0);
}
