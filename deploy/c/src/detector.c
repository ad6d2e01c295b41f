/* From scores to events by the integer law in pdmu/detector.py's docstring, one model step at a time. */
#include <string.h>

#include "pdmu_internal.h"

void pdmu_detector_init(const pdmu_detector *detector, void *state) { memset(state, 0, detector->state_bytes); }

/* The event of a label whose last step was end - 1; 0 when there is none. */
static int32_t ended(const pdmu_detector *d, pdmu_label_state *s, int32_t label, int64_t end, pdmu_event *out) {
    const int64_t length = end - s->onset;
    const int32_t too_short = length > 0 && length < d->min_steps;
    s->active = 0;
    s->refused = 0;
    s->free_at = too_short ? end : end + d->refractory_steps;
    if (length == 0) return 0; /* a cut just before */
    *out = (pdmu_event){label, too_short ? PDMU_TOO_SHORT : PDMU_DETECTED, s->onset, end, s->peak};
    return 1;
}

/* One label's machine at step k with smoothed sum `sum`; 1 when it wrote an event. */
static int32_t advance(const pdmu_detector *d, pdmu_label_state *s, int32_t label, int64_t k, int32_t sum, pdmu_event *out) {
    if (s->active) {
        if (sum < d->off[label]) return ended(d, s, label, k, out);
    } else {
        if (sum < d->on[label]) return 0;
        if (k < s->free_at) {
            if (s->refused) return 0;
            s->refused = 1;
            *out = (pdmu_event){label, PDMU_REFRACTORY, k, k + 1, sum};
            return 1;
        }
        s->active = 1;
        s->onset = k;
        s->peak = 0;
        s->refused = 0;
    }
    if (sum > s->peak) s->peak = sum;
    if (k - s->onset + 1 < d->max_steps) return 0;
    *out = (pdmu_event){label, PDMU_CUT, s->onset, k + 1, s->peak};
    s->onset = k + 1;
    s->peak = 0;
    return 1;
}

int32_t pdmu_detector_step(const pdmu_detector *detector, void *state, const int16_t *scores, pdmu_event *events) {
    pdmu_detector_head *head = state;
    int32_t *sums = pdmu_at(state, detector->state_sums), found = 0;
    int16_t *oldest = (int16_t *)pdmu_at(state, detector->state_tail) + head->position * detector->n_labels;
    pdmu_label_state *labels = pdmu_at(state, detector->state_labels);
    for (int32_t i = 0; i < detector->n_labels; i++) {
        sums[i] += scores[i] - oldest[i];
        oldest[i] = scores[i];
        if (detector->watched[i]) found += advance(detector, &labels[i], i, head->step, sums[i], &events[found]);
    }
    head->position = head->position + 1 == detector->smooth_steps ? 0 : head->position + 1;
    head->step++;
    return found;
}

int32_t pdmu_detector_finish(const pdmu_detector *detector, void *state, pdmu_event *events) {
    pdmu_detector_head *head = state;
    pdmu_label_state *labels = pdmu_at(state, detector->state_labels);
    int32_t found = 0;
    for (int32_t i = 0; i < detector->n_labels; i++) {
        if (labels[i].active) found += ended(detector, &labels[i], i, head->step, &events[found]);
    }
    return found;
}
