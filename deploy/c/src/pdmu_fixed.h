/* The one rounding law, saturation, requantisation and table look-up: pdmu/fixedpoint.py in C. */
#ifndef PDMU_FIXED_H
#define PDMU_FIXED_H

#include <stdint.h>

#if defined(__ARM_FEATURE_MVE) && !defined(PDMU_PORTABLE)
#include <arm_mve.h>
#endif

/* C99 leaves the right shift of a negative number to the implementation; the law needs the arithmetic one. */
typedef char pdmu_assert_arithmetic_shift[((int64_t)-3 >> 1) == -2 ? 1 : -1];

#define PDMU_I16_MIN (-32768)
#define PDMU_I16_MAX 32767

/* v / 2^s, halves rounded up, once; s from 1 to 62, |v| + 2^(s-1) below 2^63 (the exporter proves it). */
static inline int64_t pdmu_rshift_round(int64_t v, uint32_t s) { return (v + (INT64_C(1) << (s - 1u))) >> s; }

/* The same for s from 1 to 31: cheaper where a register has 32 bits. */
static inline int64_t pdmu_rshift_round31(int64_t v, uint32_t s) {
#if defined(__ARM_FEATURE_MVE) && !defined(PDMU_PORTABLE)
    return sqrshrl(v, (int32_t)s);
#else
    const uint64_t sum = (uint64_t)v + (UINT32_C(1) << (s - 1u));
    const uint32_t low = (uint32_t)sum >> s | (uint32_t)(sum >> 32) << (32u - s);
    return (int64_t)((uint64_t)(uint32_t)((int32_t)(uint32_t)(sum >> 32) >> s) << 32 | low);
#endif
}

/* The same where int32 holds the quotient. */
static inline int32_t pdmu_rshift_round_low(int64_t v, uint32_t s) {
#if defined(__ARM_FEATURE_MVE) && !defined(PDMU_PORTABLE)
    return (int32_t)sqrshrl(v, (int32_t)s);
#else
    const uint64_t sum = (uint64_t)v + (UINT32_C(1) << (s - 1u));
    return (int32_t)((uint32_t)sum >> s | (uint32_t)(sum >> 32) << (32u - s));
#endif
}

/* v / 2^32, rounded so: the high word and the bit below it. */
static inline int32_t pdmu_round_high(int64_t v) { return (int32_t)(v >> 32) + (int32_t)((uint32_t)v >> 31); }

static inline int16_t pdmu_clamp16(int64_t v, int32_t low) {
    return (int16_t)(v < low ? low : v > PDMU_I16_MAX ? PDMU_I16_MAX : v);
}

/* low is PDMU_I16_MIN, or 0 for the ReLU. */
static inline int16_t pdmu_requant(int64_t acc, int32_t mult, uint32_t shift, int32_t low) {
    return pdmu_clamp16(pdmu_rshift_round(acc * mult, shift), low);
}

/* Linear interpolation in `table` whose entries lie 2^frac_bits apart; 0 <= position < (entries - 1) << frac_bits.
 * Entries are int16 and frac_bits at most 8: int32 holds everything. */
static inline int32_t pdmu_lookup16(const int16_t *table, int32_t position, uint32_t frac_bits) {
    const int32_t index = position >> frac_bits;
    const int32_t fraction = position - index * (1 << frac_bits);
    const int32_t sum = table[index] * (1 << frac_bits) + (table[index + 1] - table[index]) * fraction;
    return (sum + (1 << (frac_bits - 1u))) >> frac_bits;
}

#endif
