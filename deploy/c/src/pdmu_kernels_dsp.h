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
    for (; n >= 2; n -= 2) {
        uint32_t two;
        __asm__ volatile("ldr %[two], [%[from]], #4\n str %[two], [%[to]], #4\n" : [two] "=&r"(two), [to] "+&r"(to), [from] "+&r"(from) : : "memory");
    }
    if (n) *to = *from;
}

/* Sum of a[i] * x[i], exact; a product may reach 2^30. */
static PDMU_INLINE int64_t pdmu_dot_wide(const int16_t *a, const int16_t *x, int32_t n) {
    int64_t total = 0;
    const int16_t *const end = a + (n & ~1);
    for (; a < end; a += 2, x += 2) total = __smlald(pdmu_load_pair(a), pdmu_load_pair(x), total);
    return n & 1 ? total + a[0] * x[0] : total;
}

/* acc[i] += g * p[i] + h * q[i] */
static PDMU_INLINE void pdmu_axpy2(int64_t *acc, int16_t g, const int16_t *p, int16_t h, const int16_t *q, int32_t n) {
    const pdmu_pair gh = (pdmu_pair)((uint16_t)g | (uint32_t)(uint16_t)h << 16);
    for (; n >= 2; n -= 2, acc += 2, p += 2, q += 2) {
        const uint32_t v = (uint32_t)pdmu_load_pair(p), w = (uint32_t)pdmu_load_pair(q);
        acc[0] = __smlald((pdmu_pair)((v & 0xFFFFu) | w << 16), gh, acc[0]);
        acc[1] = __smlald((pdmu_pair)((w & 0xFFFF0000u) | v >> 16), gh, acc[1]);
    }
    if (n) acc[0] += (int64_t)(g * p[0]) + h * q[0];
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

#if defined(PDMU_WIDE_WEIGHTS)

#define PDMU_ASM_DOT2_8                                                                                                              \
    "ldmia %[x]!, {r4, r5, r6, r8}\n"                                                                                                \
    "ldmia %[w0]!, {r9, r10, r11, r12}\n"                                                                                            \
    "smlad %[s0], r4, r9, %[s0]\n"                                                                                                   \
    "smlad %[s0], r5, r10, %[s0]\n"                                                                                                  \
    "smlad %[s0], r6, r11, %[s0]\n"                                                                                                  \
    "smlad %[s0], r8, r12, %[s0]\n"                                                                                                  \
    "ldmia %[w1]!, {r9, r10, r11, r12}\n"                                                                                            \
    "smlad %[s1], r4, r9, %[s1]\n"                                                                                                   \
    "smlad %[s1], r5, r10, %[s1]\n"                                                                                                  \
    "smlad %[s1], r6, r11, %[s1]\n"                                                                                                  \
    "smlad %[s1], r8, r12, %[s1]\n"
/* Five operands and eight registers: one more, and the compiler may find none for it. */
#define PDMU_ASM_DOT2(text)                                                                                                          \
    __asm__(text                                                                                                                     \
            : [x] "+&r"(x), [w0] "+&r"(w), [w1] "+&r"(w1), [s0] "+&r"(a), [s1] "+&r"(b)                                                \
            :                                                                                                                        \
            : "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "memory")

static PDMU_INLINE int32_t pdmu_dot2_is_fast(const int16_t *w, const int16_t *x, int32_t n) {
    return pdmu_is_aligned(w, x) && n % 8 == 0;
}

static PDMU_INLINE const int16_t *pdmu_dot2(const int16_t *w, const int16_t *x, int32_t n, int32_t fast, int32_t *sum0, int32_t *sum1) {
    int32_t a = *sum0, b = *sum1;
    const int16_t *w1 = w + n, *const end = x + n;
    if (fast) {
        if (n & 8) PDMU_ASM_DOT2(PDMU_ASM_DOT2_8);
        while (x < end) PDMU_ASM_DOT2(PDMU_ASM_DOT2_8 PDMU_ASM_DOT2_8);
    } else {
        for (; x + 1 < end; x += 2, w += 2, w1 += 2) {
            const pdmu_pair v = pdmu_load_pair(x);
            a = __smlad(pdmu_load_pair(w), v, a);
            b = __smlad(pdmu_load_pair(w1), v, b);
        }
        if (x < end) {
            a += *w * *x;
            b += *w1++ * *x;
        }
    }
    *sum0 = a;
    *sum1 = b;
    return w1;
}

/* Four channels: a pair of x and a pair of w at a time */
static PDMU_INLINE void pdmu_depthwise4(const pdmu_taps *t, const int16_t *w, const int16_t *x, int32_t acc[4]) {
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    for (int32_t k = t->rows; k > 0; k--, w += t->w_row, x += t->x_row) {
        const int16_t *v = w, *u = x;
        for (int32_t j = t->cols; j > 0; j--, v += t->step, u += t->step) {
            const pdmu_pair v0 = pdmu_load_pair(v), v1 = pdmu_load_pair(v + 2), u0 = pdmu_load_pair(u), u1 = pdmu_load_pair(u + 2);
            a0 = __smlabb(v0, u0, a0);
            a1 = __smlatt(v0, u0, a1);
            a2 = __smlabb(v1, u1, a2);
            a3 = __smlatt(v1, u1, a3);
        }
    }
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
}

#else

static PDMU_INLINE int16x2_t pdmu_even_bytes(uint32_t v) { return __sxtb16((int8x4_t)v); }
static PDMU_INLINE int16x2_t pdmu_odd_bytes(uint32_t v) { return __sxtb16((int8x4_t)(v >> 8 | v << 24)); }

static PDMU_INLINE uint32_t pdmu_load_word(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static PDMU_INLINE int32_t pdmu_dot2_is_fast(const int8_t *w, const int16_t *x, int32_t n) {
    (void)w;
    (void)x;
    return n % 4 == 0;
}

static PDMU_INLINE const int8_t *pdmu_dot2(const int8_t *w, const int16_t *x, int32_t n, int32_t fast, int32_t *sum0, int32_t *sum1) {
    int32_t a = *sum0, b = *sum1;
    const int8_t *w1 = w + n;
    const int16_t *const end = x + n, *const fours = x + (n & ~3);
    for (; x < fours; x += 4, w += 4, w1 += 4) {
        const uint32_t p = pdmu_load_word(x), q = pdmu_load_word(x + 2), v0 = pdmu_load_word(w), v1 = pdmu_load_word(w1);
        const int16x2_t even = (int16x2_t)((p & 0xFFFFu) | q << 16), odd = (int16x2_t)((q & 0xFFFF0000u) | p >> 16); /* PKHBT, PKHTB */
        a = __smlad(pdmu_even_bytes(v0), even, a);
        b = __smlad(pdmu_even_bytes(v1), even, b);
        a = __smlad(pdmu_odd_bytes(v0), odd, a);
        b = __smlad(pdmu_odd_bytes(v1), odd, b);
    }
    for (; !fast && x < end; x++, w++, w1++) {
        a += *w * *x;
        b += *w1 * *x;
    }
    *sum0 = a;
    *sum1 = b;
    return w1;
}

static PDMU_INLINE void pdmu_depthwise4(const pdmu_taps *t, const int8_t *w, const int16_t *x, int32_t acc[4]) {
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    for (int32_t k = t->rows; k > 0; k--, w += t->w_row, x += t->x_row) {
        const int8_t *v = w;
        const int16_t *u = x;
        for (int32_t j = t->cols; j > 0; j--, v += t->step, u += t->step) {
            const uint32_t four = pdmu_load_word(v);
            const pdmu_pair even = pdmu_even_bytes(four), odd = pdmu_odd_bytes(four), u0 = pdmu_load_pair(u), u1 = pdmu_load_pair(u + 2);
            a0 = __smlabb(even, u0, a0);
            a1 = __smlabt(odd, u0, a1);
            a2 = __smlatb(even, u1, a2);
            a3 = __smlatt(odd, u1, a3);
        }
    }
    acc[0] = a0;
    acc[1] = a1;
    acc[2] = a2;
    acc[3] = a3;
}

#endif

#endif
