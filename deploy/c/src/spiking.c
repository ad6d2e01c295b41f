/* The spiking DMU, event by event: MODEL.md 2.4, pdmu/int_layer.py. */
#include <string.h>

#include "pdmu_fixed.h"
#include "pdmu_internal.h"
#include "pdmu_quads.h"

#define THRESHOLD 65536
#define POTENTIAL_LIMIT (1 << 30)

void pdmu_event_sums(const pdmu_dense *map, const int16_t *x, int32_t *sums) {
    const int32_t rows = map->rows;
    const pdmu_weight *w = map->weight;
    if (map->bias) {
        memcpy(sums, map->bias, (size_t)rows * sizeof *sums);
    } else {
        memset(sums, 0, (size_t)rows * sizeof *sums);
    }
    for (int32_t i = 0; i < map->cols; i++, w += rows) {
        if (!x[i]) continue;
        for (int32_t r = 0; r < rows; r++) sums[r] += w[r];
    }
}

void pdmu_event_dense(const pdmu_dense *map, const int16_t *x, int32_t *sums, int16_t *y) {
    pdmu_event_sums(map, x, sums);
    for (int32_t r = 0; r < map->rows; r++) y[r] = pdmu_requant(sums[r], map->mult[r], map->shift[r], PDMU_I16_MIN);
}

static int32_t clamp_potential(int64_t v) {
    return (int32_t)(v < -POTENTIAL_LIMIT ? -POTENTIAL_LIMIT : v > POTENTIAL_LIMIT ? POTENTIAL_LIMIT : v);
}

/* v' = beta v + I - V s, or beta times zero after a spike that resets to zero; the spike of v' is returned. I = product / 2^shift. */
static int16_t neuron(int32_t *v, uint16_t beta_q15, int32_t reset_zero, int64_t product, uint32_t shift) {
    const int32_t fired = *v > THRESHOLD;
    const int64_t kept = reset_zero && fired ? 0 : *v;
    int64_t next = pdmu_rshift_round(kept * beta_q15, 15) + clamp_potential(pdmu_rshift_round(product, shift));
    if (!reset_zero && fired) next -= THRESHOLD;
    *v = clamp_potential(next);
    return *v > THRESHOLD;
}

/* W x + b in `sums`, where int32 is known to hold it. */
static PDMU_NOINLINE void narrow_sums(const pdmu_layer *l, const pdmu_dense *map, const int16_t *x, int32_t *sums) {
    const pdmu_weight *w = map->weight;
    if (l->events) {
        pdmu_event_sums(map, x, sums);
    } else if (map->quads) {
        memcpy(sums, map->bias, (size_t)map->rows * sizeof *sums);
        for (int32_t r = 0; r < map->rows; r += 4, w += 4 * map->cols) pdmu_dot4(w, x, map->cols, sums + r);
    }
}

/* (W x + b)[r]; narrow_sums went before. */
static int64_t row_sum(const pdmu_layer *l, const pdmu_dense *map, const int16_t *x, const int32_t *sums, int32_t r) {
    return l->events || map->quads ? sums[r] : pdmu_dot(map->weight + r * map->cols, x, map->cols) + map->bias[r];
}

void pdmu_spiking_writes(const pdmu_layer *l, void *state, const int16_t *x, int32_t *sums, int16_t *u) {
    const pdmu_spiking *s = l->spiking;
    int32_t *v = pdmu_at(state, s->writes.state_v);
    narrow_sums(l, &l->u, x, sums);
    for (int32_t c = 0; c < l->channels; c++) {
        const int64_t current = row_sum(l, &l->u, x, sums, c) * l->u.mult[c];
        u[c] = neuron(&v[c], s->writes.beta_q15[c], s->reset_zero, current, l->u.shift[c]) ? (int16_t)s->write_counts : 0;
    }
}

void pdmu_spiking_reads(const pdmu_layer *l, void *state, const int64_t *total, int16_t *r) {
    const pdmu_spiking *s = l->spiking;
    int32_t *v = pdmu_at(state, s->reads.state_v);
    for (int32_t j = 0; j < l->channels * l->order; j++) {
        const int64_t current = pdmu_rshift_round(total[j], 15) * s->read_mult[j];
        r[j] = neuron(&v[j], s->reads.beta_q15[j], s->reset_zero, current, s->read_shift[j]);
    }
}

void pdmu_spiking_outputs(const pdmu_layer *l, void *state, int64_t *total, const int16_t *r, const int16_t *x, int32_t *sums, int16_t *h) {
    const pdmu_spiking *s = l->spiking;
    int32_t *v = pdmu_at(state, s->outputs.state_v);
    if (s->inside) pdmu_event_sums(&l->p, r, sums);
    for (int32_t i = 0; i < l->hidden; i++) total[i] = (s->inside ? sums[i] : pdmu_rshift_round(total[i], 15)) * l->mult_t[i];
    narrow_sums(l, &l->x, x, sums);
    for (int32_t i = 0; i < l->hidden; i++) {
        const int64_t current = total[i] + row_sum(l, &l->x, x, sums, i) * l->x.mult[i];
        h[i] = neuron(&v[i], s->outputs.beta_q15[i], s->reset_zero, current, l->x.shift[i]);
    }
}
