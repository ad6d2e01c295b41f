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

/* total + the sum of a[i] * x[i], exact; a product may reach 2^30. */
static PDMU_INLINE int64_t pdmu_dot_wide(const int16_t *a, const int16_t *x, int32_t n, int64_t total) {
    const int16_t *const end = a + (n & ~1);
    for (; a < end; a += 2, x += 2) total = __smlald(pdmu_load_pair(a), pdmu_load_pair(x), total);
    return n & 1 ? total + a[0] * x[0] : total;
}

/* acc[i] += g * p[i] + h * q[i] */
static PDMU_INLINE void pdmu_axpy2(int64_t *acc, int16_t g, const int16_t *p, int16_t h, const int16_t *q, int32_t n) {
    const pdmu_pair gh = (pdmu_pair)((uint32_t)(uint16_t)g | (uint32_t)(uint16_t)h << 16);
    for (; n >= 2; n -= 2, acc += 2, p += 2, q += 2) {
        const uint32_t v = (uint32_t)pdmu_load_pair(p), w = (uint32_t)pdmu_load_pair(q);
        acc[0] = __smlald((pdmu_pair)((v & 0xFFFFu) | w << 16), gh, acc[0]);
        acc[1] = __smlald((pdmu_pair)((w & 0xFFFF0000u) | v >> 16), gh, acc[1]);
    }
    if (n) acc[0] += (int64_t)(g * p[0]) + h * q[0];
}

static PDMU_INLINE int16_t pdmu_saturate16(int32_t v) {
    int32_t y;
    __asm__("ssat %0, #16, %1" : "=r"(y) : "r"(v));
    return (int16_t)y;
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

#endif
