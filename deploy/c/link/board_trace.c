/* Looks into the runtime: the integers of its stages, and its time. */
#include <string.h>

#include "board_internal.h"
#include "pdmu_crc.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "values and state go over the line as they lie in memory: a little-endian machine is needed"
#endif

enum { VALUE_BYTES = 230, MOST_BENCH_TICKS = INT32_MAX }; /* ticks: a hop takes fewer, so that their sum stays below 2^32 */

/* The number, since RESET, of a stage's call: each stage is called at fixed multiples of the front end's frames. */
static uint32_t call_of(const pdmu_board *board, int32_t stage, int32_t index) {
    if (stage <= PDMU_STAGE_FEATURES) return board->frames - 1;
    if (stage != PDMU_STAGE_CONV) return board->frames / (uint32_t)pdmu_model_data.frames_per_step - 1;
    uint32_t frames = board->frames;
    for (int32_t i = 0; i <= index; i++) frames /= (uint32_t)pdmu_model_data.conv[i].stride_time;
    return frames - 1;
}

static void begin(pdmu_board *board, uint8_t type, int32_t stage, int32_t index, uint32_t call) {
    pdmu_frame_begin(&board->out, type, 0);
    pdmu_frame_number(&board->out, (uint64_t)stage, 1);
    pdmu_frame_number(&board->out, (uint64_t)index, 1);
    pdmu_frame_number(&board->out, call, 4);
}

void board_emit(void *context, int32_t stage, int32_t index, const void *values, int32_t bytes) {
    pdmu_board *board = context;
    const uint32_t call = call_of(board, stage, index);
    if (board->trace_mode == BOARD_TRACE_SUMS) {
        begin(board, BOARD_STAGE, stage, index, call);
        pdmu_frame_number(&board->out, (uint64_t)bytes, 2);
        pdmu_frame_number(&board->out, pdmu_crc32(0, values, (size_t)bytes), 4);
        board_send(board);
    } else if (stage == board->trace_stage && index == board->trace_index && call == board->trace_call) {
        for (int32_t at = 0; at < bytes; at += VALUE_BYTES) {
            begin(board, BOARD_VALUES, stage, index, call);
            pdmu_frame_number(&board->out, (uint64_t)at, 2);
            pdmu_frame_number(&board->out, (uint64_t)bytes, 2);
            pdmu_frame_bytes(&board->out, (const uint8_t *)values + at, (size_t)(bytes - at < VALUE_BYTES ? bytes - at : VALUE_BYTES));
            board_send(board);
        }
    }
}

static uint32_t ticks(const pdmu_board *board) { return board->port->ticks(board->port->context); }

/* pdmu_emit: the front end is done when its features are. */
static void note_features(void *context, int32_t stage, int32_t index, const void *values, int32_t bytes) {
    pdmu_board *board = context;
    (void)index;
    (void)values;
    (void)bytes;
    if (stage == PDMU_STAGE_FEATURES) board->bench.features_ticks = ticks(board);
}

static void make_noise(pdmu_board *board, int32_t n) {
    uint32_t x = board->bench.noise;
    for (int32_t i = 0; i < n; i++) {
        x = 1664525u * x + 1013904223u;
        board->pcm[i] = (int16_t)((int32_t)(x >> 16) - 32768);
    }
    board->bench.noise = x;
}

static void time_hop(pdmu_board *board) {
    const pdmu_trace trace = {note_features, board};
    const int32_t hop = pdmu_model_data.frontend.hop, most = hop < (int32_t)PDMU_BOARD_PCM_SAMPLES ? hop : (int32_t)PDMU_BOARD_PCM_SAMPLES;
    uint32_t *spent = board->bench.spent;
    int32_t steps = 0;
    for (int32_t left = hop; left; left -= left < most ? left : most) {
        const int32_t n = left < most ? left : most;
        make_noise(board, n);
        const uint32_t begun = ticks(board);
        board->bench.features_ticks = begun;
        steps = pdmu_process(&pdmu_model_data, &board->stream.state, &board->stream.scratch, board->pcm, n, board->scores, 1, &trace);
        const uint32_t done = ticks(board);
        const uint32_t features = left == n ? board->bench.features_ticks : done;
        spent[0] += features - begun;
        spent[1] += done - features;
    }
    if (steps != 1) return;
    const uint32_t begun = ticks(board);
    (void)pdmu_detector_step(&pdmu_detector_data, &board->detector, board->scores, board->found);
    spent[2] += ticks(board) - begun;
}

void board_begin_bench(pdmu_board *board, uint8_t tag, uint32_t hops) {
    memset(&board->bench, 0, sizeof board->bench);
    board->bench.active = 1;
    board->bench.tag = tag;
    board->bench.hops = hops;
    board->bench.noise = 1;
    board_begin_stream(board, board->source);
}

int32_t board_bench(pdmu_board *board) {
    pdmu_board_bench *bench = &board->bench;
    const uint32_t *spent = bench->spent, all = spent[0] + spent[1] + spent[2];
    if (!bench->active) return 0;
    if (bench->done < bench->hops && all <= MOST_BENCH_TICKS) {
        time_hop(board);
        bench->done++;
        return 1;
    }
    bench->active = 0;
    board_begin_stream(board, board->source);
    pdmu_frame_begin(&board->out, BOARD_BENCH | BOARD_REPLY, bench->tag);
    pdmu_frame_number(&board->out, bench->done, 4);
    for (int32_t i = 0; i < 3; i++) pdmu_frame_number(&board->out, spent[i], 4);
    pdmu_frame_number(&board->out, all, 4);
    pdmu_frame_number(&board->out, board->port->tick_hz, 4);
    pdmu_frame_number(&board->out, board->port->instructions_per_tick, 2);
    board_send(board);
    return 1;
}
