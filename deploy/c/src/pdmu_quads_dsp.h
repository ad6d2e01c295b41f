/* Linear maps in quads (pdmu_dense) with the Arm DSP extension.
 *
 * All fourteen registers are in use, which no compiler finds by itself: hence whole functions in assembly. A block is eight columns of four
 * rows: x from r0 in r6 ... r9, weights from r1, sums in r2 ... r5. LDM and LDRD need aligned words; where there are none, C does it.
 */
#ifndef PDMU_QUADS_DSP_H
#define PDMU_QUADS_DSP_H

#if defined(PDMU_WIDE_WEIGHTS)
#define PDMU_ASM_ROW(sum)                   \
    "ldmia r1!, {r10, r11, r12, lr}\n"      \
    "smlad " sum ", r6, r10, " sum "\n"     \
    "smlad " sum ", r7, r11, " sum "\n"     \
    "smlad " sum ", r8, r12, " sum "\n"     \
    "smlad " sum ", r9, lr, " sum "\n"
/* A tap of four depthwise channels, tap to tap of x r11 bytes */
#define PDMU_ASM_TAP                     \
    "ldrd r6, r7, [r0]\n"                \
    "add r0, r0, r11\n"                  \
    "ldrd r8, r9, [r1], #8\n"            \
    "smlabb r2, r6, r8, r2\n"            \
    "smlatt r3, r6, r8, r3\n"            \
    "smlabb r4, r7, r9, r4\n"            \
    "smlatt r5, r7, r9, r5\n"
#else
#define PDMU_ASM_ROW(sum)                   \
    "ldrd r10, r11, [r1], #8\n"             \
    "sxtb16 r12, r10\n"                     \
    "smlad " sum ", r6, r12, " sum "\n"     \
    "sxtb16 r12, r10, ror #8\n"             \
    "smlad " sum ", r7, r12, " sum "\n"     \
    "sxtb16 r12, r11\n"                     \
    "smlad " sum ", r8, r12, " sum "\n"     \
    "sxtb16 r12, r11, ror #8\n"             \
    "smlad " sum ", r9, r12, " sum "\n"
#define PDMU_ASM_TAP                     \
    "ldrd r6, r7, [r0]\n"                \
    "add r0, r0, r11\n"                  \
    "ldr r8, [r1], #4\n"                 \
    "sxtb16 r9, r8, ror #8\n"            \
    "sxtb16 r8, r8\n"                    \
    "smlabb r2, r6, r8, r2\n"            \
    "smlatb r3, r6, r9, r3\n"            \
    "smlabt r4, r7, r8, r4\n"            \
    "smlatt r5, r7, r9, r5\n"
#endif
#define PDMU_ASM_BLOCK "ldmia r0!, {r6, r7, r8, r9}\n" PDMU_ASM_ROW("r2") PDMU_ASM_ROW("r3") PDMU_ASM_ROW("r4") PDMU_ASM_ROW("r5")

/* Sums in r2 ... r5 to four outputs, r12 to the next quads; then the flags say whether there are none. */
#define PDMU_ASM_REQUANT(saturate, quads_end)                                                      \
    "ldr r12, [sp, #4]\n"                                                                          \
    "ldmia r12!, {r6, r7, r8, r9}\n"                                                               \
    "smmul r2, r2, r6\n"                                                                           \
    "smmul r3, r3, r7\n"                                                                           \
    "smmul r4, r4, r8\n"                                                                           \
    "smmul r5, r5, r9\n"                                                                           \
    "ldmia r12!, {r6, r7, r8, r9}\n"                                                               \
    "asr r2, r2, r6\n"                                                                             \
    "asr r3, r3, r7\n"                                                                             \
    "asr r4, r4, r8\n"                                                                             \
    "asr r5, r5, r9\n"                                                                             \
    "add r2, r2, #1\n"                                                                             \
    "add r3, r3, #1\n"                                                                             \
    "add r4, r4, #1\n"                                                                             \
    "add r5, r5, #1\n"                                                                             \
    saturate(r2) saturate(r3) saturate(r4) saturate(r5)                                             \
    "pkhbt r2, r2, r3, lsl #16\n"                                                                  \
    "pkhbt r4, r4, r5, lsl #16\n"                                                                  \
    "ldr r6, [sp, #8]\n"                                                                           \
    "strd r2, r4, [r6], #8\n"                                                                          \
    "str r6, [sp, #8]\n"                                                                           \
    "ldr r7, [sp, #" quads_end "]\n"                                                               \
    "cmp r12, r7\n"

#define PDMU_ASM_DENSE_QUADS(saturate)                                                             \
    __asm__ volatile(                                                                              \
        "push {r4-r11, lr}\n"                                                                      \
        "sub sp, #12\n"                                                                            \
        "str r0, [sp, #0]\n"                                                                       \
        "str r3, [sp, #8]\n"                                                                       \
        "mov r12, r2\n"                                                                            \
        "1: ldr r0, [sp, #0]\n"                                                                    \
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
        "3:\n" PDMU_ASM_REQUANT(saturate, "52") "bne 1b\n"                                         \
        "add sp, #12\n"                                                                            \
        "pop {r4-r11, pc}\n")
#define PDMU_ASM_RELU(r) "usat " #r ", #15, " #r ", asr #1\n"
#define PDMU_ASM_SATURATE(r) "ssat " #r ", #16, " #r ", asr #1\n"

PDMU_ASM_FUNCTION pdmu_dense_quads_relu(PDMU_UNUSED const int16_t *x, PDMU_UNUSED const pdmu_weight *w, PDMU_UNUSED const int32_t *quads,
                                        PDMU_UNUSED int16_t *y, PDMU_UNUSED const int16_t *x_end, PDMU_UNUSED const int32_t *quads_end,
                                        PDMU_UNUSED int32_t odd_eights) {
    PDMU_ASM_DENSE_QUADS(PDMU_ASM_RELU);
}

PDMU_ASM_FUNCTION pdmu_dense_quads_plain(PDMU_UNUSED const int16_t *x, PDMU_UNUSED const pdmu_weight *w, PDMU_UNUSED const int32_t *quads,
                                         PDMU_UNUSED int16_t *y, PDMU_UNUSED const int16_t *x_end, PDMU_UNUSED const int32_t *quads_end,
                                         PDMU_UNUSED int32_t odd_eights) {
    PDMU_ASM_DENSE_QUADS(PDMU_ASM_SATURATE);
}

PDMU_ASM_FUNCTION pdmu_dot4_asm(PDMU_UNUSED const int16_t *x, PDMU_UNUSED const pdmu_weight *w, PDMU_UNUSED int32_t *acc,
                                PDMU_UNUSED const int16_t *x_end) {
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

/* x_tap, x_rest and w_rest in bytes: from tap to tap, and from the last tap of a row to the next row. */
PDMU_ASM_FUNCTION pdmu_depthwise_asm(PDMU_UNUSED const int16_t *x, PDMU_UNUSED const pdmu_weight *w, PDMU_UNUSED const int32_t *quads,
                                     PDMU_UNUSED int16_t *y, PDMU_UNUSED const int32_t *quads_end, PDMU_UNUSED int32_t rows,
                                     PDMU_UNUSED int32_t cols, PDMU_UNUSED int32_t x_tap, PDMU_UNUSED int32_t x_rest,
                                     PDMU_UNUSED int32_t w_rest) {
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "sub sp, #12\n"
        "str r0, [sp, #0]\n"
        "str r3, [sp, #8]\n"
        "ldr r11, [sp, #60]\n"
        "mov r12, r2\n"
        "1: ldr r0, [sp, #0]\n"
        "ldmia r12!, {r2, r3, r4, r5}\n"
        "str r12, [sp, #4]\n"
        "ldr r10, [sp, #52]\n"
        "ldr r12, [sp, #64]\n"
        "ldr r6, [sp, #56]\n"
        "cmp r6, #3\n"
        "beq 4f\n"
        "2: ldr lr, [sp, #56]\n"
        "3:\n" PDMU_ASM_TAP
        "subs lr, #1\n"
        "bne 3b\n"
        "ldr r6, [sp, #68]\n"
        "add r0, r0, r12\n"
        "add r1, r1, r6\n"
        "subs r10, #1\n"
        "bne 2b\n"
        "b 5f\n"
        "4:\n" PDMU_ASM_TAP PDMU_ASM_TAP PDMU_ASM_TAP
        "ldr r6, [sp, #68]\n"
        "add r0, r0, r12\n"
        "add r1, r1, r6\n"
        "subs r10, #1\n"
        "bne 4b\n"
        "5: ldr r0, [sp, #0]\n"
        "add r0, #8\n"
        "str r0, [sp, #0]\n" PDMU_ASM_REQUANT(PDMU_ASM_RELU, "48")
        "bne 1b\n"
        "add sp, #12\n"
        "pop {r4-r11, pc}\n");
}
static PDMU_INLINE void pdmu_dot4(const pdmu_weight *w, const int16_t *x, int32_t n, int32_t acc[4]) {
    if (pdmu_is_aligned(w, x)) {
        pdmu_dot4_asm(x, w, acc, x + n);
    } else {
        pdmu_dot4_c(w, x, n, acc);
    }
}

static PDMU_INLINE void pdmu_dense_quads(const pdmu_dense *map, const int16_t *x, int32_t low, int16_t *y) {
    const int32_t *const end = map->quads + 3 * map->rows;
    if (!pdmu_is_aligned(map->weight, x) || !pdmu_is_aligned(y, y)) {
        pdmu_dense_quads_c(map, x, low, y);
    } else if (low == 0) {
        pdmu_dense_quads_relu(x, map->weight, map->quads, y, x + map->cols, end, map->cols & 8);
    } else {
        pdmu_dense_quads_plain(x, map->weight, map->quads, y, x + map->cols, end, map->cols & 8);
    }
}

static PDMU_INLINE void pdmu_depthwise_quads(const pdmu_taps *t, const pdmu_dense *map, const pdmu_weight *w, const int16_t *x, int16_t *y) {
    if (!pdmu_is_aligned(w, x) || !pdmu_is_aligned(y, y)) {
        pdmu_depthwise_quads_c(t, map, w, x, y);
        return;
    }
    pdmu_depthwise_asm(x, w, map->quads, y, map->quads + 3 * map->rows, t->rows, t->cols, 2 * t->x_tap, 2 * (t->x_row - t->cols * t->x_tap),
                       (int32_t)sizeof *w * (t->w_row - t->cols * t->w_tap));
}

#endif
