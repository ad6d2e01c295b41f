/* Kernels with the Arm DSP extension: Cortex-M4, M7, M33 and up. */
#ifndef PDMU_KERNELS_DSP_H
#define PDMU_KERNELS_DSP_H

#include <arm_acle.h>

typedef int16x2_t pdmu_pair;

static inline pdmu_pair pdmu_load_pair(const int16_t *p) {
    pdmu_pair v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline int32_t pdmu_mul_low(pdmu_pair a, pdmu_pair b, int32_t c) { return __smlabb(a, b, c); }
static inline int32_t pdmu_mul_high(pdmu_pair a, pdmu_pair b, int32_t c) { return __smlatt(a, b, c); }

/* The low words of p in 64 bits; the high words' products fit 32 bits together, as the sum is below 2^63. */
static inline int64_t pdmu_dot_power(const uint16_t *w, const int64_t *p, int32_t n) {
    uint32_t low = 0, middle = 0, high = 0, weight, p_low, p_high;
    const int64_t *const end = p + n;
    if (n > 0) {
        __asm__(
            "1: ldrd %[pl], %[ph], [%[p]], #8\n"
            "ldrh %[w], [%[wp]], #2\n"
            "umlal %[low], %[mid], %[w], %[pl]\n"
            "mla %[high], %[w], %[ph], %[high]\n"
            "cmp %[p], %[end]\n"
            "bne 1b\n"
            : [low] "+&r"(low), [mid] "+&r"(middle), [high] "+&r"(high), [p] "+&r"(p), [wp] "+&r"(w), [w] "=&r"(weight), [pl] "=&r"(p_low),
              [ph] "=&r"(p_high)
            : [end] "r"(end)
            : "cc", "memory");
    }
    return (int64_t)((uint64_t)(high + middle) << 32 | low);
}

/* t = rs(w v, 32) with %[t], %[u] for re and im; %[n] is -w.im (or what stands for it), %[x], %[y] w */
#define PDMU_ASM_ROTATE(x, y, n, re, im)                                            \
    "smull %[l], %[t], %[" n "], %[" im "]\n"                                        \
    "smlal %[l], %[t], %[" x "], %[" re "]\n"                                        \
    "add %[t], %[t], %[l], lsr #31\n"                                                \
    "smull %[l], %[u], %[" x "], %[" im "]\n"                                        \
    "smlal %[l], %[u], %[" y "], %[" re "]\n"                                        \
    "add %[u], %[u], %[l], lsr #31\n"

/* Two stages of the transform over z[0], z[h], z[2 h], z[3 h], the law's products by w1, w2 and -j w2. Offsets of LDRD reach 1020 bytes, hence
 * the base in the middle. */
#define PDMU_FFT_TWO_STAGES(z, h, w1, w2) pdmu_fft_two_stages((z) + 2 * (h) + 2, 8 * (h), w1, w2)
static inline __attribute__((always_inline)) void pdmu_fft_two_stages(int32_t *base, int32_t step, const int32_t *w1, const int32_t *w2) {
    int32_t ar, ai, br, bi, l, t, u, x, y, n;
    __asm__ volatile(
        "ldrd %[x], %[y], [%[w1]]\n"
        "ldrd %[br], %[bi], [%[z], #-8]\n"
        "rsb %[n], %[y], #0\n"
        PDMU_ASM_ROTATE("x", "y", "n", "br", "bi")
        "ldrd %[ar], %[ai], [%[z], %[o0]]\n"
        "add %[ar], %[ar], %[t], lsl #1\n"
        "sub %[br], %[ar], %[t], lsl #2\n" /* top - t = (top + t) - 2 t: no third register */
        "add %[ai], %[ai], %[u], lsl #1\n"
        "sub %[bi], %[ai], %[u], lsl #2\n"
        "strd %[br], %[bi], [%[z], #-8]\n"
        "ldrd %[br], %[bi], [%[z], %[o3]]\n"
        PDMU_ASM_ROTATE("x", "y", "n", "br", "bi")
        "ldrd %[br], %[bi], [%[z], %[o2]]\n"
        "ldrd %[x], %[y], [%[w2]]\n"
        "add %[br], %[br], %[t], lsl #1\n"
        "sub %[l], %[br], %[t], lsl #2\n"
        "add %[bi], %[bi], %[u], lsl #1\n"
        "sub %[n], %[bi], %[u], lsl #2\n"
        "strd %[l], %[n], [%[z], %[o3]]\n"
        "rsb %[n], %[y], #0\n"
        PDMU_ASM_ROTATE("x", "y", "n", "br", "bi")
        "add %[ar], %[ar], %[t], lsl #1\n"
        "sub %[br], %[ar], %[t], lsl #2\n"
        "add %[ai], %[ai], %[u], lsl #1\n"
        "sub %[bi], %[ai], %[u], lsl #2\n"
        "strd %[ar], %[ai], [%[z], %[o0]]\n"
        "strd %[br], %[bi], [%[z], %[o2]]\n"
        "ldrd %[br], %[bi], [%[z], %[o3]]\n"
        "rsb %[n], %[x], #0\n"
        "smull %[l], %[t], %[y], %[br]\n" /* -j w2 = (w2.im, -w2.re) */
        "smlal %[l], %[t], %[x], %[bi]\n"
        "add %[t], %[t], %[l], lsr #31\n"
        "smull %[l], %[u], %[y], %[bi]\n"
        "smlal %[l], %[u], %[n], %[br]\n"
        "add %[u], %[u], %[l], lsr #31\n"
        "ldrd %[ar], %[ai], [%[z], #-8]\n"
        "add %[ar], %[ar], %[t], lsl #1\n"
        "sub %[br], %[ar], %[t], lsl #2\n"
        "add %[ai], %[ai], %[u], lsl #1\n"
        "sub %[bi], %[ai], %[u], lsl #2\n"
        "strd %[ar], %[ai], [%[z], #-8]\n"
        "strd %[br], %[bi], [%[z], %[o3]]\n"
        : [ar] "=&r"(ar), [ai] "=&r"(ai), [br] "=&r"(br), [bi] "=&r"(bi), [l] "=&r"(l), [t] "=&r"(t), [u] "=&r"(u), [x] "=&r"(x),
          [y] "=&r"(y), [n] "=&r"(n)
        : [z] "r"(base), [w1] "r"(w1), [w2] "r"(w2), [o0] "i"(-step - 8), [o2] "i"(step - 8), [o3] "i"(2 * step - 8)
        : "memory");
}

static PDMU_INLINE int32_t pdmu_is_aligned(const void *a, const void *b) { return (((uintptr_t)a | (uintptr_t)b) & 3u) == 0; }

static PDMU_INLINE void pdmu_copy_few(int16_t *to, const int16_t *from, int32_t n) {
    for (int32_t pairs = n >> 1; pairs > 0; pairs--) {
        uint32_t two;
        __asm__ volatile("ldr %[two], [%[from]], #4\n str %[two], [%[to]], #4\n" : [two] "=&r"(two), [to] "+&r"(to), [from] "+&r"(from) : : "memory");
    }
    if (n & 1) *to = *from;
}

/* Copy n values towards lower addresses, or to memory apart. Small C libraries copy byte by byte. */
static PDMU_INLINE void pdmu_copy(int16_t *to, const int16_t *from, int32_t n) {
    for (; n >= 16 && pdmu_is_aligned(to, from); n -= 16) {
        __asm__ volatile(
            "ldmia %[from]!, {r4, r5, r6, r8, r9, r10, r11, r12}\n"
            "stmia %[to]!, {r4, r5, r6, r8, r9, r10, r11, r12}\n"
            : [to] "+&r"(to), [from] "+&r"(from)
            :
            : "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "memory");
    }
    pdmu_copy_few(to, from, n);
}

static PDMU_INLINE int16_t pdmu_saturate16(int32_t v) {
    int32_t y;
    __asm__("ssat %0, #16, %1" : "=r"(y) : "r"(v));
    return (int16_t)y;
}

#define PDMU_UNUSED __attribute__((unused))
/* Where C's own code would disturb: the arguments are taken from the registers, and from the stack, by assembly alone. */
#define PDMU_ASM_FUNCTION static __attribute__((naked, noinline, unused)) void

/* total + the sum of a[i] * x[i], exact; a product may reach 2^30. */
static PDMU_INLINE int64_t pdmu_dot_wide(const int16_t *a, const int16_t *x, int32_t n, int64_t total) {
    for (; n >= 2; n -= 2, a += 2, x += 2) total = __smlald(pdmu_load_pair(a), pdmu_load_pair(x), total);
    return n ? total + a[0] * x[0] : total;
}

#define PDMU_ASM_FOUR             \
    "ldrd r6, r7, [r0], #8\n"     \
    "ldrd r8, r9, [r1], #8\n"     \
    "smlald r4, r5, r6, r8\n"     \
    "smlald r4, r5, r7, r9\n"

/* next[i] = sat16(rs(a[i] . m + b[i] u, ka)) for d even, words aligned, and quotients that int32 holds */
PDMU_ASM_FUNCTION pdmu_memory_asm(PDMU_UNUSED const int16_t *a, PDMU_UNUSED const int16_t *m, PDMU_UNUSED const int16_t *b, PDMU_UNUSED int32_t u,
                                  PDMU_UNUSED int16_t *next, PDMU_UNUSED int32_t d, PDMU_UNUSED uint32_t ka) {
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "ldr r11, [sp, #36]\n" /* next */
        "ldr lr, [sp, #40]\n"  /* rows to go */
        "ldr r4, [sp, #44]\n"
        "rsb r5, r4, #32\n"
        "and r6, lr, #7\n"
        "sub sp, #12\n"
        "str r1, [sp, #0]\n" /* m */
        "str r5, [sp, #4]\n" /* 32 - ka */
        "str r6, [sp, #8]\n" /* what fills no eight */
        "mov r12, #1\n"
        "sub r4, r4, #1\n"
        "lsl r12, r12, r4\n"
        "add r10, r1, lr, lsl #1\n"
        "1: ldrsh r6, [r2], #2\n"
        "smull r4, r5, r6, r3\n"
        "ldr r1, [sp, #0]\n"
        "adds r4, r4, r12\n"
        "adc r5, r5, #0\n"
        "ldr r6, [sp, #8]\n"
        "cbz r6, 2f\n"
        "tst r6, #2\n"
        "beq 4f\n"
        "ldr r7, [r0], #4\n"
        "ldr r8, [r1], #4\n"
        "smlald r4, r5, r7, r8\n"
        "tst r6, #4\n"
        "beq 5f\n"
        "4:\n" PDMU_ASM_FOUR
        "5: cmp r1, r10\n"
        "beq 3f\n"
        "2:\n" PDMU_ASM_FOUR PDMU_ASM_FOUR
        "cmp r1, r10\n"
        "bne 2b\n"
        "3: ldr r6, [sp, #56]\n"
        "ldr r7, [sp, #4]\n"
        "lsr r4, r4, r6\n"
        "lsl r5, r5, r7\n"
        "orr r4, r4, r5\n"
        "ssat r4, #16, r4\n"
        "strh r4, [r11], #2\n"
        "subs lr, lr, #1\n"
        "bne 1b\n"
        "add sp, #12\n"
        "pop {r4-r11, pc}\n");
}

static PDMU_INLINE void pdmu_memory_rows_dsp(const int16_t *a, const int16_t *m, const int16_t *b, int32_t u, int16_t *next, int32_t d,
                                             uint32_t ka) {
    if (d % 2 == 0 && pdmu_is_aligned(a, m)) {
        pdmu_memory_asm(a, m, b, u, next, d, ka);
    } else {
        pdmu_memory_rows_c(a, m, b, u, next, d, ka);
    }
}

/* The first of each pair, and the second of each. */
static PDMU_INLINE pdmu_pair pdmu_bottoms(pdmu_pair a, pdmu_pair b) {
    pdmu_pair v;
    __asm__("pkhbt %0, %1, %2, lsl #16" : "=r"(v) : "r"(a), "r"(b));
    return v;
}

static PDMU_INLINE pdmu_pair pdmu_tops(pdmu_pair a, pdmu_pair b) {
    pdmu_pair v;
    __asm__("pkhtb %0, %2, %1, asr #16" : "=r"(v) : "r"(a), "r"(b));
    return v;
}

/* acc[i] += the sum of weight[k] * ring[offset[k] + i] over four taps */
static PDMU_INLINE void pdmu_four_taps(int64_t *acc, const int16_t *ring, const int32_t *offset, const int16_t *weight, int32_t n) {
    const pdmu_pair w01 = pdmu_load_pair(weight), w23 = pdmu_load_pair(weight + 2);
    const int16_t *p0 = ring + offset[0], *p1 = ring + offset[1], *p2 = ring + offset[2], *p3 = ring + offset[3];
    for (int64_t *const end = acc + (n & ~1); acc < end; acc += 2, p0 += 2, p1 += 2, p2 += 2, p3 += 2) {
        const pdmu_pair v0 = pdmu_load_pair(p0), v1 = pdmu_load_pair(p1), v2 = pdmu_load_pair(p2), v3 = pdmu_load_pair(p3);
        acc[0] = __smlald(pdmu_bottoms(v2, v3), w23, __smlald(pdmu_bottoms(v0, v1), w01, acc[0]));
        acc[1] = __smlald(pdmu_tops(v2, v3), w23, __smlald(pdmu_tops(v0, v1), w01, acc[1]));
    }
    if (n & 1) *acc += (int64_t)(weight[0] * *p0) + weight[1] * *p1 + (int64_t)(weight[2] * *p2) + weight[3] * *p3;
}

/* The same over eight taps. */
static PDMU_INLINE void pdmu_delay_taps_dsp(int64_t *acc, const int16_t *ring, const int32_t offset[8], const int16_t weight[8], int32_t n) {
    pdmu_four_taps(acc, ring, offset, weight, n);
    pdmu_four_taps(acc, ring, offset + 4, weight + 4, n);
}

/* v / 2 rounded down, clamped to low ... 32767; low is 0 or -32768, known when compiling */
static PDMU_INLINE int16_t pdmu_halve_clamp16(int32_t v, int32_t low) {
    int32_t y;
    if (low == 0) {
        __asm__("usat %0, #15, %1, asr #1" : "=r"(y) : "r"(v));
    } else {
        __asm__("ssat %0, #16, %1, asr #1" : "=r"(y) : "r"(v));
    }
    return (int16_t)y;
}

#if defined(__ARM_FEATURE_MVE)
#define PDMU_MVE
#include "pdmu_kernels_mve.h"
#else
#define pdmu_delay_taps pdmu_delay_taps_dsp
#define pdmu_memory_rows pdmu_memory_rows_dsp
#endif

#endif
