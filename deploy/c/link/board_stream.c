/* Samples on their way through the runtime and the detector. */
#include <string.h>

#include "board_internal.h"

#define RING ((uint32_t)PDMU_BOARD_PCM_SAMPLES)
typedef char assert_ring_is_a_power_of_two[(PDMU_BOARD_PCM_SAMPLES & (PDMU_BOARD_PCM_SAMPLES - 1u)) == 0 ? 1 : -1];
typedef char assert_ring_is_told_in_16_bits[PDMU_BOARD_PCM_SAMPLES <= 32768u ? 1 : -1];

void board_begin_stream(pdmu_board *board, uint8_t source) {
    if (board->source == board->port->source && source != board->source) board->lent_seq = board->next_seq;
    board->source = source;
    board->finished = 0;
    board->taken = board->used = board->frames = 0;
    board->hop_fill = 0;
    memset(&board->step, 0, sizeof board->step);
    memset(board->of_label, 0, sizeof board->of_label);
    pdmu_init(&pdmu_model_data, &board->stream.state);
    pdmu_detector_init(&pdmu_detector_data, &board->detector);
    if (board->port->select) board->port->select(board->port->context, source);
}

uint32_t board_pcm_free(const pdmu_board *board) { return RING - (board->taken - board->used); }

void board_take(pdmu_board *board, const uint8_t *samples, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        const int32_t v = (int32_t)pdmu_number(samples + 2 * i, 2);
        board->pcm[(board->taken + i) % RING] = (int16_t)(v < 32768 ? v : v - 65536);
    }
    board->taken += n;
}

/* Samples of the clip or the microphone, at most what the hop begun still needs. */
static void fetch(pdmu_board *board) {
    const uint32_t at = board->taken % RING, end = RING - at;
    int32_t n = pdmu_model_data.frontend.hop - board->hop_fill;
    if (board->taken != board->used) return;
    if ((uint32_t)n > end) n = (int32_t)end;
    board->taken += (uint32_t)board->port->samples(board->port->context, board->pcm + at, n);
}

static void add(pdmu_board_level *sum, const pdmu_board_level *level) {
    sum->energy += level->energy;
    sum->clipped += level->clipped;
}

static void measure(pdmu_board *board, const int16_t *pcm, int32_t n) {
    pdmu_board_level level = {0, 0};
    for (int32_t i = 0; i < n; i++) {
        level.energy += (uint64_t)((int64_t)pcm[i] * pcm[i]);
        level.clipped += pcm[i] == INT16_MAX || pcm[i] == INT16_MIN;
    }
    add(&board->step, &level);
    add(&board->hearing, &level);
    board->hearing_samples += (uint32_t)n;
}

/* Report the detector's findings. A label's event has the level of its own steps: those before this one, and this one where it ended it. */
static void report(pdmu_board *board, int32_t found) {
    static const pdmu_board_level silence = {0, 0};
    const int64_t steps = board->detector.head.step;
    for (int32_t i = 0; i < found; i++) {
        const pdmu_event *event = &board->found[i];
        pdmu_board_level *level = &board->of_label[event->label];
        if (event->end_step == steps) add(level, &board->step);
        board_report(board, event, level);
        *level = silence;
    }
    for (int32_t i = 0; i < PDMU_N_LABELS; i++) {
        const pdmu_label_state *label = &board->detector.labels[i];
        if (label->active && label->onset < steps) add(&board->of_label[i], &board->step);
    }
    board->step = silence;
}

int32_t board_hear(pdmu_board *board) {
    if (board->source != PDMU_BOARD_SERIAL) fetch(board);
    const int32_t hop = pdmu_model_data.frontend.hop;
    const uint32_t at = board->used % RING, waiting = board->taken - board->used, end = RING - at;
    int32_t n = hop - board->hop_fill;
    if ((uint32_t)n > waiting) n = (int32_t)waiting;
    if ((uint32_t)n > end) n = (int32_t)end;
    if (!n) return 0;
    const pdmu_trace trace = {board_emit, board};
    const int16_t *pcm = board->pcm + at;
    measure(board, pcm, n);
    board->used += (uint32_t)n;
    board->hop_fill += n;
    if (board->hop_fill == hop) {
        board->hop_fill = 0;
        board->frames++;
    }
    if (pdmu_process(&pdmu_model_data, &board->stream.state, &board->stream.scratch, pcm, n, board->scores, 1,
                     board->trace_mode ? &trace : NULL) == 1) {
        report(board, pdmu_detector_step(&pdmu_detector_data, &board->detector, board->scores, board->found));
    }
    return 1;
}

void board_drain(pdmu_board *board) {
    while (board->source == PDMU_BOARD_SERIAL && board_hear(board)) {
    }
}

void board_end_loan(pdmu_board *board) {
    board->trace_mode = BOARD_TRACE_OFF;
    if (board->source == board->port->source) return;
    board_drop(board, board->lent_seq);
    board_begin_stream(board, board->port->source);
}

void board_finish(pdmu_board *board) {
    board_drain(board);
    if (!board->finished) {
        memset(&board->step, 0, sizeof board->step); /* of a step that stays unfinished */
        report(board, pdmu_detector_finish(&pdmu_detector_data, &board->detector, board->found));
        board->finished = 1;
    }
    while (board_send_event(board)) {
    }
}
