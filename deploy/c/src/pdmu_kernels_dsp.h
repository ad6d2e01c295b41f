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

/* Eight columns of four rows: x from r0 to r6 ... r9, weights from r1 to r10 ... lr, sums in r2 ... r5. All fourteen registers are in use, which
 * no compiler finds by itself: hence whole functions in assembly. */
#define PDMU_ASM_ROW(sum)                   \
    "ldmia r1!, {r10, r11, r12, lr}\n"      \
    "smlad " sum ", r6, r10, " sum "\n"     \
    "smlad " sum ", r7, r11, " sum "\n"     \
    "smlad " sum ", r8, r12, " sum "\n"     \
    "smlad " sum ", r9, lr, " sum "\n"
#define PDMU_ASM_BLOCK "ldmia r0!, {r6, r7, r8, r9}\n" PDMU_ASM_ROW("r2") PDMU_ASM_ROW("r3") PDMU_ASM_ROW("r4") PDMU_ASM_ROW("r5")

#define PDMU_ASM_DENSE_QUADS(saturate)                                                             \
    __asm__ volatile(                                                                              \
        "push {r4-r11, lr}\n"                                                                      \
        "sub sp, #12\n"                                                                            \
        "str r0, [sp, #0]\n"                                                                       \
        "str r2, [sp, #4]\n"                                                                       \
        "str r3, [sp, #8]\n"                                                                       \
        "1: ldr r12, [sp, #4]\n"                                                                   \
        "ldr r0, [sp, #0]\n"                                                                       \
        "ldmia r12!, {r2, r3, r4, r5}\n"                                                           \
        "str r12, [sp, #4]\n"                                                                      \
        "ldr r6, [sp, #56]\n"                                                                      \
        "cmp r6, #0\n"                                                                             \
        "beq 2f\n" PDMU_ASM_BLOCK                                                                  \
        "ldr r6, [sp, #48]\n"                                                                      \
        "cmp r0, r6\n"                                                                             \
        "bhs 3f\n"                                                                                 \
        "2:\n" PDMU_ASM_BLOCK PDMU_ASM_BLOCK                                                       \
        "ldr r6, [sp, #48]\n"                                                                      \
        "cmp r0, r6\n"                                                                             \
        "blo 2b\n"                                                                                 \
        "3: ldr r12, [sp, #4]\n"                                                                   \
        "ldmia r12!, {r6, r7, r8, r9}\n"                                                           \
        "smmul r2, r2, r6\n"                                                                       \
        "smmul r3, r3, r7\n"                                                                       \
        "smmul r4, r4, r8\n"                                                                       \
        "smmul r5, r5, r9\n"                                                                       \
        "ldmia r12!, {r6, r7, r8, r9}\n"                                                           \
        "str r12, [sp, #4]\n"                                                                      \
        "asr r2, r2, r6\n"                                                                         \
        "asr r3, r3, r7\n"                                                                         \
        "asr r4, r4, r8\n"                                                                         \
        "asr r5, r5, r9\n"                                                                         \
        "add r2, r2, #1\n"                                                                         \
        "add r3, r3, #1\n"                                                                         \
        "add r4, r4, #1\n"                                                                         \
        "add r5, r5, #1\n"                                                                         \
        saturate(r2) saturate(r3) saturate(r4) saturate(r5)                                         \
        "pkhbt r2, r2, r3, lsl #16\n"                                                              \
        "pkhbt r4, r4, r5, lsl #16\n"                                                              \
        "ldr r6, [sp, #8]\n"                                                                       \
        "str r2, [r6], #4\n"                                                                       \
        "str r4, [r6], #4\n"                                                                       \
        "str r6, [sp, #8]\n"                                                                       \
        "ldr r7, [sp, #52]\n"                                                                      \
        "cmp r12, r7\n"                                                                            \
        "bne 1b\n"                                                                                 \
        "add sp, #12\n"                                                                            \
        "pop {r4-r11, pc}\n")
#define PDMU_ASM_RELU(r) "usat " #r ", #15, " #r ", asr #1\n"
#define PDMU_ASM_SATURATE(r) "ssat " #r ", #16, " #r ", asr #1\n"

/* Named in C, the arguments would be unused: x, weights, quads, y; then, on the stack, the ends of x and quads and whether the eights are odd. */
typedef void (*pdmu_dense_asm)(const int16_t *, const int16_t *, const int32_t *, int16_t *, const int16_t *, const int32_t *, int32_t);
static __attribute__((naked, noinline, unused)) void pdmu_dense_quads_relu(void) { PDMU_ASM_DENSE_QUADS(PDMU_ASM_RELU); }
static __attribute__((naked, noinline, unused)) void pdmu_dense_quads_plain(void) { PDMU_ASM_DENSE_QUADS(PDMU_ASM_SATURATE); }

/* x, weights, sums, end of x */
static __attribute__((naked, noinline, unused)) void pdmu_dot4_asm(void) {
    __asm__ volatile(
        "push {r2-r11, lr}\n"
        "ldmia r2, {r2, r3, r4, r5}\n"
        "1:\n" PDMU_ASM_BLOCK
        "ldr r6, [sp, #4]\n"
        "cmp r0, r6\n"
        "blo 1b\n"
        "ldr r0, [sp], #8\n"
        "stmia r0, {r2, r3, r4, r5}\n"
        "pop {r4-r11, pc}\n");
}

static PDMU_INLINE void pdmu_dot4(const int16_t *w, const int16_t *x, int32_t n, int32_t acc[4]) {
    if (pdmu_is_aligned(x, x)) {
        ((void (*)(const int16_t *, const int16_t *, int32_t *, const int16_t *))pdmu_dot4_asm)(x, w, acc, x + n);
        return;
    }
    for (const int16_t *const end = x + n; x < end; x += 8) {
        for (int32_t r = 0; r < 4; r++, w += 8) {
            for (int32_t i = 0; i < 8; i += 2) acc[r] = __smlad(pdmu_load_pair(w + i), pdmu_load_pair(x + i), acc[r]);
        }
    }
}

#define PDMU_HAS_DENSE_QUADS
static PDMU_INLINE void pdmu_dense_quads(const pdmu_dense *map, const int16_t *x, int32_t low, int16_t *y) {
    ((pdmu_dense_asm)(low == 0 ? pdmu_dense_quads_relu : pdmu_dense_quads_plain))(x, map->weight, map->quads, y, x + map->cols, map->quads + 3 * map->rows, map->cols & 8);
}

/* Four channels */
static PDMU_INLINE void pdmu_depthwise4(const pdmu_taps *t, const int16_t *w, const int16_t *x, int32_t acc[4]) {
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    for (int32_t k = t->rows; k > 0; k--, w += t->w_row, x += t->x_row) {
        const int16_t *v = w, *u = x;
        for (int32_t j = t->cols; j > 0; j--, v += t->w_tap, u += t->x_tap) {
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

static PDMU_INLINE int16x2_t pdmu_even_bytes(uint32_t v) { return __sxtb16(v); }
static PDMU_INLINE int16x2_t pdmu_odd_bytes(uint32_t v) { return __sxtb16(v >> 8 | v << 24); }

static PDMU_INLINE uint32_t pdmu_load_word(const void *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Four columns of a row: SXTB16 takes every other byte, and x is paired likewise. */
static PDMU_INLINE int32_t pdmu_dot_fours(const int8_t *w, int16x2_t even, int16x2_t odd, int32_t acc) {
    const uint32_t v = pdmu_load_word(w);
    return __smlad(pdmu_odd_bytes(v), odd, __smlad(pdmu_even_bytes(v), even, acc));
}

static PDMU_INLINE void pdmu_dot4(const int8_t *w, const int16_t *x, int32_t n, int32_t acc[4]) {
    int32_t a = acc[0], b = acc[1], c = acc[2], d = acc[3];
    for (const int16_t *const end = x + n; x < end; w += 24) {
        for (int32_t half = 0; half < 2; half++, x += 4, w += 4) {
            const uint32_t p = pdmu_load_word(x), q = pdmu_load_word(x + 2);
            const int16x2_t even = (int16x2_t)((p & 0xFFFFu) | q << 16), odd = (int16x2_t)((q & 0xFFFF0000u) | p >> 16); /* PKHBT, PKHTB */
            a = pdmu_dot_fours(w, even, odd, a);
            b = pdmu_dot_fours(w + 8, even, odd, b);
            c = pdmu_dot_fours(w + 16, even, odd, c);
            d = pdmu_dot_fours(w + 24, even, odd, d);
        }
    }
    acc[0] = a;
    acc[1] = b;
    acc[2] = c;
    acc[3] = d;
}

static PDMU_INLINE void pdmu_depthwise4(const pdmu_taps *t, const int8_t *w, const int16_t *x, int32_t acc[4]) {
    int32_t a0 = acc[0], a1 = acc[1], a2 = acc[2], a3 = acc[3];
    for (int32_t k = t->rows; k > 0; k--, w += t->w_row, x += t->x_row) {
        const int8_t *v = w;
        const int16_t *u = x;
        for (int32_t j = t->cols; j > 0; j--, v += t->w_tap, u += t->x_tap) {
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
