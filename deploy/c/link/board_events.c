/* Detections, kept until the host has them, and the board's health. */
#include <string.h>

#include "board_internal.h"

static void send(pdmu_board *board, uint32_t seq, const pdmu_event *event, const pdmu_board_level *level) {
    pdmu_frame *f = &board->out;
    pdmu_frame_begin(f, BOARD_EVENT, 0);
    pdmu_frame_number(f, seq, 4);
    pdmu_frame_number(f, (uint64_t)event->label, 1);
    pdmu_frame_number(f, (uint64_t)event->outcome, 1);
    pdmu_frame_number(f, (uint64_t)pdmu_detector_data.smooth_steps, 2);
    pdmu_frame_number(f, (uint64_t)event->peak_sum, 4);
    pdmu_frame_number(f, (uint64_t)pdmu_detector_data.on[event->label], 4);
    pdmu_frame_number(f, (uint64_t)event->onset_step, 8);
    pdmu_frame_number(f, (uint64_t)event->end_step, 8);
    pdmu_frame_number(f, level->energy, 8);
    pdmu_frame_number(f, level->clipped, 4);
    pdmu_frame_number(f, board->lost, 4);
    board_send(board);
}

static pdmu_board_event *slot_of(pdmu_board *board, uint32_t seq) { return &board->kept[seq % PDMU_BOARD_EVENTS]; }

/* The oldest is never a dropped one. */
static void forget_oldest(pdmu_board *board) {
    do {
        board->oldest_seq++;
    } while (board->oldest_seq != board->next_seq && slot_of(board, board->oldest_seq)->dropped);
    if (board->send_seq < board->oldest_seq) board->send_seq = board->oldest_seq;
}

void board_report(pdmu_board *board, const pdmu_event *event, const pdmu_board_level *level) {
    if (event->outcome == PDMU_TOO_SHORT || event->outcome == PDMU_REFRACTORY) {
        if (board->boot) send(board, 0, event, level);
        return;
    }
    if (board->next_seq - board->oldest_seq == PDMU_BOARD_EVENTS) {
        forget_oldest(board);
        board->lost++;
    }
    const pdmu_board_event kept = {*event, *level, 0};
    *slot_of(board, board->next_seq++) = kept;
}

int32_t board_send_event(pdmu_board *board) {
    while (board->send_seq != board->next_seq && slot_of(board, board->send_seq)->dropped) board->send_seq++;
    if (!board->boot || board->send_seq == board->next_seq) return 0;
    const pdmu_board_event *slot = slot_of(board, board->send_seq);
    send(board, board->send_seq++, &slot->event, &slot->level);
    return 1;
}

void board_forget(pdmu_board *board, uint32_t seq) {
    while (board->oldest_seq <= seq) forget_oldest(board);
}

void board_drop(pdmu_board *board, uint32_t first) {
    const int32_t all = board->oldest_seq >= first;
    for (uint32_t seq = all ? board->oldest_seq : first; seq != board->next_seq; seq++) slot_of(board, seq)->dropped = 1;
    if (all) board_forget(board, board->next_seq - 1);
}

static uint32_t pending(pdmu_board *board) {
    uint32_t n = 0;
    for (uint32_t seq = board->oldest_seq; seq != board->next_seq; seq++) n += !slot_of(board, seq)->dropped;
    return n;
}

void board_repeat(pdmu_board *board) {
    board->send_seq = board->oldest_seq;
    board->repeat_ms = board_now(board);
}

/* floor(sqrt(v)), bit by bit. */
static uint32_t root(uint64_t v) {
    uint32_t r = 0;
    for (uint32_t bit = UINT32_C(1) << 16; bit; bit >>= 1) {
        if ((uint64_t)(r | bit) * (r | bit) <= v) r |= bit;
    }
    return r;
}

void board_health(pdmu_board *board) {
    const pdmu_board_port *port = board->port;
    const uint32_t samples = board->hearing_samples ? board->hearing_samples : 1, clipped = board->hearing.clipped;
    pdmu_frame *f = &board->out;
    board->health_due = 0;
    board->health_ms = board_now(board);
    pdmu_frame_begin(f, BOARD_HEALTH, 0);
    pdmu_frame_number(f, board->health_ms, 4);
    pdmu_frame_number(f, board->used, 4);
    pdmu_frame_number(f, root(board->hearing.energy / samples), 2);
    pdmu_frame_number(f, clipped < UINT16_MAX ? clipped : UINT16_MAX, 2);
    pdmu_frame_number(f, port->dropped ? port->dropped(port->context) : 0, 4);
    pdmu_frame_number(f, board->lost, 4);
    pdmu_frame_number(f, pending(board), 2);
    pdmu_frame_number(f, port->stack_free ? port->stack_free(port->context) : 0, 4);
    board_send(board);
    memset(&board->hearing, 0, sizeof board->hearing);
    board->hearing_samples = 0;
}
