/* The board itself: its start, bytes in, and whose turn it is. */
#include "pdmu_board.h"

#include <string.h>

#include "board_internal.h"

void pdmu_board_init(pdmu_board *board, const pdmu_board_port *port) {
    memset(board, 0, sizeof *board);
    board->port = port;
    board->oldest_seq = board->next_seq = board->send_seq = 1;
    board->health_ms = board_now(board);
    board_begin_stream(board, port->source);
}

void board_send(pdmu_board *board) {
    const size_t n = pdmu_frame_end(&board->out);
    board->port->write(board->port->context, board->out.bytes, n);
}

void pdmu_board_byte(pdmu_board *board, uint8_t byte) {
    const size_t n = pdmu_deframer_byte(&board->in, byte);
    if (!n || board->in.bytes[0] == 0 || board->in.bytes[0] > BOARD_LAST_REQUEST) return;
    board->heard = 1;
    board->heard_ms = board_now(board);
    board_serve(board, board->in.bytes[0], board->in.bytes[1], board->in.bytes + 2, n - 2);
}

/* What is due by the clock. */
static void keep_time(pdmu_board *board) {
    const uint32_t now = board_now(board);
    if (board->bench.active) board->heard_ms = now; /* its host waits in silence */
    if (board->heard && now - board->heard_ms >= HOST_GONE_MS) {
        board->heard = 0;
        board_end_loan(board);
    }
    if (board->health_due || now - board->health_ms >= HEALTH_EVERY_MS) board_health(board);
    if (board->oldest_seq == board->next_seq) {
        board->repeat_ms = now;
    } else if (board->heard && now - board->repeat_ms >= REPEAT_EVERY_MS) {
        board_repeat(board);
    }
}

int32_t pdmu_board_poll(pdmu_board *board) {
    keep_time(board);
    return board_send_event(board) || board_bench(board) || board_hear(board);
}
