/* What the parts of the board's side of the protocol share. */
#ifndef PDMU_BOARD_INTERNAL_H
#define PDMU_BOARD_INTERNAL_H

#include "pdmu_board.h"

enum board_request {
    BOARD_HELLO = 0x01,
    BOARD_LABEL,
    BOARD_RESET,
    BOARD_PCM,
    BOARD_FINISH,
    BOARD_ACK,
    BOARD_RESEND,
    BOARD_TRACE,
    BOARD_STATE,
    BOARD_BENCH,
    BOARD_REBOOT,
    BOARD_LAST_REQUEST = 0x3F
};
enum board_notice { BOARD_EVENT = 0x40, BOARD_STAGE, BOARD_VALUES, BOARD_HEALTH };
enum board_trace { BOARD_TRACE_OFF, BOARD_TRACE_SUMS, BOARD_TRACE_VALUES };
enum { BOARD_REPLY = 0x80, BOARD_ERROR = 0xFF };
enum { HEALTH_EVERY_MS = 10000, REPEAT_EVERY_MS = 2000, HOST_GONE_MS = 10000 };

/* Send the frame in board->out. */
void board_send(pdmu_board *board);

static inline uint32_t board_now(const pdmu_board *board) { return board->port->milliseconds(board->port->context); }

/* board_requests.c: serve one; `payload` has n bytes. */
void board_serve(pdmu_board *board, uint8_t type, uint8_t tag, const uint8_t *payload, size_t n);

/* board_stream.c */
void board_begin_stream(pdmu_board *board, uint8_t source);
uint32_t board_pcm_free(const pdmu_board *board);
void board_take(pdmu_board *board, const uint8_t *samples, uint32_t n); /* int16, the lower byte first; there is room for them */
int32_t board_hear(pdmu_board *board); /* at most a hop; 1 when there were samples */
void board_drain(pdmu_board *board);   /* all samples that came over the line */
void board_end_loan(pdmu_board *board); /* the host is gone: back to the port's own source */
void board_finish(pdmu_board *board);

/* board_events.c */
void board_report(pdmu_board *board, const pdmu_event *event, const pdmu_board_level *level); /* keep a detection, send a rejection */
int32_t board_send_event(pdmu_board *board); /* 1 when one was due */
void board_forget(pdmu_board *board, uint32_t seq);
void board_drop(pdmu_board *board, uint32_t first); /* the events kept from this one on */
void board_repeat(pdmu_board *board);        /* send from the oldest again */
void board_health(pdmu_board *board);

/* board_trace.c */
void board_emit(void *context, int32_t stage, int32_t index, const void *values, int32_t bytes); /* pdmu_emit of a pdmu_board */
void board_begin_bench(pdmu_board *board, uint8_t tag, uint32_t hops);
int32_t board_bench(pdmu_board *board); /* a hop of BENCH, or its reply; 0 when none is under way */

#endif
