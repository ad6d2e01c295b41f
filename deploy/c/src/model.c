/* The integer network, one frame at a time: MODEL.md 2.3, pdmu/int_model.py. */
#include <string.h>

#include "pdmu_fixed.h"
#include "pdmu_internal.h"
#include "pdmu_quads.h"

static size_t bytes16(int32_t n) { return (size_t)n * sizeof(int16_t); }

static size_t bytes32(int32_t n) { return (size_t)n * sizeof(int32_t); }

/* `low` is a constant of the call. */
static PDMU_INLINE void dense_rows(const pdmu_dense *map, const int16_t *x, int32_t low, int16_t *y) {
    const pdmu_weight *w = map->weight;
    if (map->quads) {
        pdmu_dense_quads(map, x, low, y);
        return;
    }
    for (int32_t r = 0; r < map->rows; r++, w += map->cols) {
        const int64_t acc = pdmu_dot(w, x, map->cols) + (map->bias ? map->bias[r] : 0);
        y[r] = pdmu_requant(acc, map->mult[r], map->shift[r], low);
    }
}

static PDMU_NOINLINE void dense(const pdmu_dense *map, const int16_t *x, int16_t *y) { dense_rows(map, x, PDMU_I16_MIN, y); }

static PDMU_NOINLINE void dense_relu(const pdmu_dense *map, const int16_t *x, int16_t *y) { dense_rows(map, x, 0, y); }

/* A linear map over activations, or over spikes. */
static void affine(const pdmu_dense *map, int32_t events, const int16_t *x, int32_t *sums, int16_t *y) {
    if (events) {
        pdmu_event_dense(map, x, sums, y);
    } else {
        dense(map, x, y);
    }
}

static int32_t is_routed(const pdmu_layer *l) { return l->gate == PDMU_GATE_TOP1 || l->gate == PDMU_GATE_STRAIGHT_THROUGH; }

/* Q11 logits to Q15 in place: e_i is kept where the logit was. */
static void softmax_q15(const int16_t *exp_q15, int16_t *v, int32_t n) {
    const int32_t limit = 12 * 2048;
    int32_t max = v[0], total = 0;
    for (int32_t i = 1; i < n; i++) max = v[i] > max ? v[i] : max;
    for (int32_t i = 0; i < n; i++) {
        const int32_t z = max - v[i];
        v[i] = (int16_t)(z < limit ? pdmu_lookup16(exp_q15, z, 7) : 0);
        total += v[i];
    }
    for (int32_t i = 0; i < n; i++) v[i] = pdmu_clamp16((v[i] * 32768 + total / 2) / total, 0);
}

static void sigmoid_q15(const int16_t *table_q15, int16_t *v, int32_t n) {
    for (int32_t i = 0; i < n; i++) v[i] = (int16_t)pdmu_lookup16(table_q15, v[i] + 32768, 7);
}

/* Copy the kernel's view of the input around output bin b, zeros outside, so that each output channel is one dot product. */
static PDMU_NOINLINE void gather_patch(const pdmu_conv *c, const int16_t *rows, int32_t b, int16_t *patch) {
    const int32_t begin = b * c->stride_mel - (c->kernel_mel - 1) / 2, end = begin + c->kernel_mel;
    const int32_t from = begin < 0 ? 0 : begin, to = end > c->in_bins ? c->in_bins : end;
    const int32_t before = (from - begin) * c->in_channels, width = c->kernel_mel * c->in_channels;
    if (to - from < c->kernel_mel) memset(patch, 0, bytes16(c->kernel_time * width));
    rows += from * c->in_channels;
    for (int32_t k = 0; k < c->kernel_time; k++, patch += width, rows += c->in_bins * c->in_channels) {
        pdmu_copy_few(patch + before, rows, (to - from) * c->in_channels);
    }
}

static PDMU_NOINLINE void depthwise_bin(const pdmu_conv *c, const int16_t *rows, int32_t b, int16_t *y) {
    const int32_t n = c->in_channels, begin = b * c->stride_mel - (c->kernel_mel - 1) / 2;
    const int32_t from = begin < 0 ? -begin : 0, to = begin + c->kernel_mel > c->in_bins ? c->in_bins - begin : c->kernel_mel;
    const pdmu_dense *map = &c->map;
    const int16_t *x = rows + (begin + from) * n;
    if (map->quads) {
        const pdmu_taps taps = {c->kernel_time, to - from, 4 * c->kernel_mel, 4, c->in_bins * n, n};
        pdmu_depthwise_quads(&taps, map, map->weight + 4 * from, x, y);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        int64_t acc = map->bias[i];
        for (int32_t k = 0; k < c->kernel_time; k++) {
            for (int32_t j = from; j < to; j++) acc += map->weight[(k * c->kernel_mel + j) * n + i] * x[(k * c->in_bins + j - from) * n + i];
        }
        y[i] = pdmu_requant(acc, map->mult[i], map->shift[i], 0);
    }
}

/* Take one input frame; 1 when it completed an output frame. */
static int32_t conv_frame(const pdmu_model *model, const pdmu_conv *c, void *state, int32_t *held, void *scratch, const int16_t *x,
                          int16_t *y) {
    int16_t *rows = pdmu_at(state, c->state_rows);
    const int32_t width = c->in_bins * c->in_channels;
    pdmu_copy(rows + *held * width, x, width);
    if (++*held < c->kernel_time) return 0;
    int16_t *patch = pdmu_at(scratch, model->scratch_patch);
    const int32_t pointwise = c->kernel_time == 1 && c->kernel_mel == 1 && c->map.cols == c->in_channels; /* a bin is its own patch */
    if (!c->depthwise && !pointwise) memset(patch, 0, bytes16(c->map.cols)); /* what fills the rows of weights stays zero */
    for (int32_t b = 0; b < c->out_bins; b++, y += c->out_channels) {
        if (c->depthwise) {
            depthwise_bin(c, rows, b, y);
        } else if (pointwise) {
            dense_relu(&c->map, rows + b * c->stride_mel * c->in_channels, y);
        } else {
            gather_patch(c, rows, b, patch);
            dense_relu(&c->map, patch, y);
        }
    }
    *held = c->kernel_time - c->stride_time;
    pdmu_copy(rows, rows + c->stride_time * width, *held * width);
    return 1;
}

/* m'[c,i] = sat16(rs(sum_j A[i,j] m[c,j] + B[i] u[c], ka)) */
static PDMU_NOINLINE void memory_step(const pdmu_layer *l, int16_t *m, const int16_t *u, int16_t *next) {
    const int32_t d = l->order;
    const uint32_t ka = (uint32_t)l->ka;
    for (int32_t c = 0; c < l->channels; c++, m += d) {
        if (ka >= 8 && ka < 32 && d < 256) { /* the sum is below 2^30 (d + 1), and so the quotient below 2^31 */
            pdmu_memory_rows(l->a, m, l->b, u[c], next, d, ka);
        } else {
            for (int32_t i = 0; i < d; i++) {
                next[i] = pdmu_clamp16(pdmu_rshift_round(pdmu_dot_wide(l->a + i * d, m, d, l->b[i] * u[c]), ka), PDMU_I16_MIN);
            }
        }
        pdmu_copy(m, next, d);
    }
}

/* acc = (p << 15) + sum_i g_i[k - i tau] p[k - i tau], then p and g take the place of the oldest in the ring. */
static PDMU_NOINLINE void delayed_sum(const pdmu_layer *l, void *state, int32_t *position, const int16_t *p, int32_t h, const int16_t *g, int64_t *acc) {
    const int32_t n = l->taps, length = n * l->dilation;
    int16_t *ring_p = pdmu_at(state, l->state_p);
    int16_t *ring_g = l->gate == PDMU_GATE_SOFTMAX ? pdmu_at(state, l->state_g) : NULL;
    for (int32_t i = 0; i < h; i++) acc[i] = p[i] * 32768;
    for (int32_t i = 1; i <= n; i += 8) { /* eight taps at a time, those beyond the last with weight zero */
        int16_t weight[8] = {0};
        int32_t offset[8] = {0};
        for (int32_t k = 0; k < 8 && i + k <= n; k++) {
            const int32_t back = *position - (i + k) * l->dilation, slot = back < 0 ? back + length : back;
            weight[k] = ring_g ? ring_g[slot * n + i + k - 1] : (int16_t)l->uniform_q15;
            offset[k] = slot * h;
        }
        pdmu_delay_taps(acc, ring_p, offset, weight, h);
    }
    pdmu_copy(ring_p + *position * h, p, h);
    if (ring_g) pdmu_copy(ring_g + *position * n, g, n);
    *position = *position + 1 == length ? 0 : *position + 1;
}

/* acc = (p + what arrives now) << 15, then g p is sent ahead by the one tap whose gate is not zero: one write a step. */
static void routed_sum(const pdmu_layer *l, void *state, int32_t *position, const int16_t *p, int32_t h, const int16_t *g, int64_t *acc) {
    const int32_t length = l->taps * l->dilation;
    int16_t *ring = pdmu_at(state, l->state_p), *now = ring + *position * h;
    for (int32_t i = 0; i < h; i++) acc[i] = ((int64_t)p[i] + now[i]) * 32768;
    memset(now, 0, bytes16(h));
    int32_t tap = 0;
    while (!g[tap]) tap++;
    const int32_t ahead = *position + (tap + 1) * l->dilation;
    int16_t *slot = ring + (ahead >= length ? ahead - length : ahead) * h;
    const int32_t weight = l->gate == PDMU_GATE_TOP1 ? g[tap] : 32768;
    for (int32_t i = 0; i < h; i++) slot[i] = pdmu_clamp16(slot[i] + ((p[i] * weight + 16384) >> 15), PDMU_I16_MIN);
    *position = *position + 1 == length ? 0 : *position + 1;
}

/* The sums over the delay line of values `p` [width], Q15. */
static void deliver(const pdmu_layer *l, void *state, int32_t *position, const int16_t *p, int32_t width, const int16_t *g, int64_t *acc) {
    if (l->gate == PDMU_GATE_OFF) {
        for (int32_t i = 0; i < width; i++) acc[i] = (int64_t)p[i] * 32768;
    } else if (is_routed(l)) {
        routed_sum(l, state, position, p, width, g, acc);
    } else {
        delayed_sum(l, state, position, p, width, g, acc);
    }
}

static void gates(const pdmu_model *model, const pdmu_layer *l, const int16_t *x, int32_t *sums, int16_t *g) {
    if (l->gate == PDMU_GATE_UNIFORM) {
        for (int32_t i = 0; i < l->taps; i++) g[i] = (int16_t)l->uniform_q15;
        return;
    }
    affine(&l->g, l->events, x, sums, g);
    int32_t top = 0;
    for (int32_t i = 1; i < l->taps; i++) top = g[i] > g[top] ? i : top; /* the first of equals */
    if (l->gate != PDMU_GATE_STRAIGHT_THROUGH) softmax_q15(model->exp_q15, g, l->taps);
    if (is_routed(l)) {
        const int16_t weight = l->gate == PDMU_GATE_TOP1 ? g[top] : 1;
        memset(g, 0, bytes16(l->taps));
        g[top] = weight;
    }
}

/* relu(t mt + direct mx + x mr), scaled once */
static PDMU_INLINE int16_t mixed(const pdmu_layer *l, int32_t r, int64_t delayed, int64_t direct, const int16_t *x) {
    int64_t sum = (int64_t)pdmu_rshift_round_low(delayed, 15) * l->mult_t[r] + direct * l->x.mult[r];
    if (l->mult_r) sum += (int64_t)x[r] * l->mult_r[r];
    const uint32_t shift = l->x.shift[r];
    const int32_t high = (int32_t)(sum >> 32);
    if (shift > 32) return pdmu_halve_clamp16((high >> (shift - 33u)) + 1, 0);
    if (high < 0) return 0;
    if (shift == 32) return pdmu_clamp16(pdmu_round_high(sum), 0);
    const uint32_t rounded = (uint32_t)pdmu_rshift_round_low(sum, shift); /* or what is left of it, where the line below saturates */
    return high >> (shift - 1u) || rounded > PDMU_I16_MAX ? PDMU_I16_MAX : (int16_t)rounded;
}

/* h = relu(t mt + (W_x x + b) mx + x mr) */
static PDMU_NOINLINE void mix(const pdmu_layer *l, const int64_t *acc, const int16_t *x, int16_t *h) {
    const pdmu_weight *w = l->x.weight;
    const int32_t *quads = l->x.quads;
    for (int32_t r = 0; quads && r < l->hidden; r += 4, quads += 12, w += 4 * l->inputs) {
        int32_t direct[4] = {quads[0], quads[1], quads[2], quads[3]};
        pdmu_dot4(w, x, l->inputs, direct);
        h[r] = mixed(l, r, acc[r], direct[0], x);
        h[r + 1] = mixed(l, r + 1, acc[r + 1], direct[1], x);
        h[r + 2] = mixed(l, r + 2, acc[r + 2], direct[2], x);
        h[r + 3] = mixed(l, r + 3, acc[r + 3], direct[3], x);
    }
    for (int32_t r = 0; !quads && r < l->hidden; r++, w += l->inputs) {
        h[r] = mixed(l, r, acc[r], pdmu_dot(w, x, l->inputs) + l->x.bias[r], x);
    }
}

/* Outputs by way of neurons; `values` is spent. */
static void spiking_outputs(const pdmu_layer *l, int32_t index, void *state, int64_t *acc, int16_t *values, const int16_t *x, int32_t *sums,
                            int16_t *h, const pdmu_trace *trace) {
    const pdmu_spiking *s = l->spiking;
    const int32_t reads = l->channels * l->order;
    if (s->inside) {
        pdmu_spiking_reads(l, state, acc, values);
        pdmu_emit_stage(trace, PDMU_STAGE_V_R, index, pdmu_at(state, s->reads.state_v), bytes32(reads));
        pdmu_emit_stage(trace, PDMU_STAGE_R, index, values, bytes16(reads));
    }
    pdmu_spiking_outputs(l, state, acc, values, x, sums, h);
    pdmu_emit_stage(trace, PDMU_STAGE_V, index, pdmu_at(state, s->outputs.state_v), bytes32(l->hidden));
}

static void layer_step(const pdmu_model *model, int32_t index, void *state, int32_t *position, void *scratch, const int16_t *x,
                       int16_t *h, const pdmu_trace *trace) {
    const pdmu_layer *l = &model->layers[index];
    const int32_t inside = l->spiking && l->spiking->inside;
    int16_t *m = pdmu_at(state, l->state_m), *vector = pdmu_at(scratch, model->scratch_patch);
    int64_t *acc = pdmu_at(scratch, model->scratch_acc);
    int32_t *sums = pdmu_at(scratch, model->scratch_sums);

    int16_t *u = vector;
    if (inside) {
        pdmu_spiking_writes(l, state, x, sums, u);
        pdmu_emit_stage(trace, PDMU_STAGE_V_U, index, pdmu_at(state, l->spiking->writes.state_v), bytes32(l->channels));
    } else {
        affine(&l->u, l->events, x, sums, u);
    }
    pdmu_emit_stage(trace, PDMU_STAGE_U, index, u, bytes16(l->channels));
    memory_step(l, m, u, u + l->channels);
    pdmu_emit_stage(trace, PDMU_STAGE_M, index, m, bytes16(l->channels * l->order));

    int16_t *p = vector, *g = vector + l->hidden; /* u is spent */
    if (!inside) {
        dense(&l->p, m, p);
        pdmu_emit_stage(trace, PDMU_STAGE_P, index, p, bytes16(l->hidden));
    }
    if (l->gate != PDMU_GATE_OFF) {
        gates(model, l, x, sums, g);
        pdmu_emit_stage(trace, PDMU_STAGE_G, index, g, bytes16(l->taps));
    }
    deliver(l, state, position, inside ? m : p, inside ? l->channels * l->order : l->hidden, g, acc);
    if (l->spiking) {
        spiking_outputs(l, index, state, acc, vector, x, sums, h, trace);
    } else {
        mix(l, acc, x, h);
    }
    pdmu_emit_stage(trace, PDMU_STAGE_H, index, h, bytes16(l->hidden));
}

void pdmu_model_init(const pdmu_model *model, void *state) {
    int32_t *held = (int32_t *)pdmu_at(state, model->state_counters) + PDMU_COUNT_FIRST;
    for (int32_t i = 0; i < model->n_conv; i++) held[i] = model->conv[i].kernel_time - model->conv[i].stride_time;
}

int32_t pdmu_model_frame(const pdmu_model *model, void *state, void *scratch, const int16_t *features, int16_t *scores,
                         const pdmu_trace *trace) {
    int32_t *held = (int32_t *)pdmu_at(state, model->state_counters) + PDMU_COUNT_FIRST, *position = held + model->n_conv;
    const int16_t *x = features;
    int16_t *y = pdmu_at(scratch, model->scratch_vector[0]), *other = pdmu_at(scratch, model->scratch_vector[1]);
    for (int32_t i = 0; i < model->n_conv; i++) { /* a convolution copies its input first: all may write to the same vector */
        const pdmu_conv *c = &model->conv[i];
        if (!conv_frame(model, c, state, &held[i], scratch, x, y)) return 0;
        pdmu_emit_stage(trace, PDMU_STAGE_CONV, i, y, bytes16(c->out_bins * c->out_channels));
        x = y;
    }
    for (int32_t i = 0; i < model->n_layers; i++) {
        int16_t *h = x == y ? other : y;
        layer_step(model, i, state, &position[i], scratch, x, h, trace);
        x = h;
    }
    affine(&model->head, model->head_events, x, pdmu_at(scratch, model->scratch_sums), scores);
    pdmu_emit_stage(trace, PDMU_STAGE_LOGITS, 0, scores, bytes16(model->n_labels));
    if (model->head_kind == PDMU_SOFTMAX) {
        softmax_q15(model->exp_q15, scores, model->n_labels);
    } else {
        sigmoid_q15(model->sigmoid_q15, scores, model->n_labels);
    }
    pdmu_emit_stage(trace, PDMU_STAGE_SCORES, 0, scores, bytes16(model->n_labels));
    return 1;
}
