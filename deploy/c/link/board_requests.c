/* The requests of PROTOCOL.md: each has one reply, BENCH's when it is done, and may come again without harm. */
#include "board_internal.h"

enum { ERROR_UNKNOWN = 1, ERROR_VALUE = 2, ERROR_NOT_NOW = 3, ERROR_NOT_BUILT_IN = 4 };
enum { HAS_TRACE = 1, HAS_MICROPHONE = 2, HAS_CLIP = 4, HAS_BENCH = 8 };
enum { NAME_BYTES = 31, CONTRACT_DIGITS = 16, LABEL_BYTES = 234, STATE_BYTES = 232, SHA256_DIGITS = 64 };

static const uint32_t reboot_magic = 0x74626F6Fu;

/* A request being served. */
typedef struct {
    uint8_t type, tag;
    const uint8_t *payload;
    size_t n;
} request;

static pdmu_frame *reply(pdmu_board *board, const request *r) {
    pdmu_frame_begin(&board->out, r->type | BOARD_REPLY, r->tag);
    return &board->out;
}

static void refuse(pdmu_board *board, const request *r, uint8_t code, const char *text) {
    pdmu_frame_begin(&board->out, BOARD_ERROR, r->tag);
    pdmu_frame_number(&board->out, r->type, 1);
    pdmu_frame_number(&board->out, code, 1);
    pdmu_frame_string(&board->out, text, PDMU_FRAME_PAYLOAD - 3);
    board_send(board);
}

/* Whether the payload is `n` bytes long; refuses the request otherwise. */
static int32_t has_length(pdmu_board *board, const request *r, size_t n) {
    if (r->n == n) return 1;
    refuse(board, r, ERROR_VALUE, "wrong length");
    return 0;
}

static void hello(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 8)) return;
    if (!board->boot) board->boot = pdmu_number(r->payload, 8);
    const pdmu_board_port *port = board->port;
    const int32_t flags = HAS_TRACE | (port->has_microphone ? HAS_MICROPHONE : 0) | (port->has_clip ? HAS_CLIP : 0) | (port->ticks ? HAS_BENCH : 0);
    pdmu_frame *f = reply(board, r);
    pdmu_frame_number(f, PDMU_BOARD_PROTOCOL, 1);
    pdmu_frame_number(f, (uint64_t)flags, 1);
    pdmu_frame_number(f, PDMU_SAMPLES_PER_STEP, 2);
    pdmu_frame_number(f, PDMU_SAMPLE_RATE_HZ, 4);
    pdmu_frame_number(f, board->boot, 8);
    pdmu_frame_number(f, board->next_seq, 4);
    pdmu_frame_number(f, board_pcm_free(board), 2);
    pdmu_frame_number(f, PDMU_N_LABELS, 1);
    pdmu_frame_number(f, board->source, 1);
    pdmu_frame_number(f, (uint64_t)pdmu_detector_data.smooth_steps, 2);
    pdmu_frame_number(f, pdmu_model_data.state_bytes, 4);
    pdmu_frame_string(f, port->board, NAME_BYTES);
    pdmu_frame_string(f, port->firmware, NAME_BYTES);
    pdmu_frame_string(f, PDMU_MODEL_NAME, NAME_BYTES);
    pdmu_frame_string(f, PDMU_MODEL_VERSION, NAME_BYTES);
    pdmu_frame_string(f, pdmu_model_data.bundle_sha256, SHA256_DIGITS);
    pdmu_frame_string(f, PDMU_CONTRACT, CONTRACT_DIGITS);
    board_send(board);
    board->health_due = 1;
}

static void label(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 1)) return;
    if (r->payload[0] >= PDMU_N_LABELS) {
        refuse(board, r, ERROR_VALUE, "no such label");
        return;
    }
    pdmu_frame *f = reply(board, r);
    pdmu_frame_number(f, r->payload[0], 1);
    pdmu_frame_number(f, (uint64_t)pdmu_detector_data.on[r->payload[0]], 4);
    pdmu_frame_string(f, pdmu_model_data.labels[r->payload[0]], LABEL_BYTES);
    board_send(board);
}

/* Its host gets an answer, if not the one it waits for. */
static void stop_bench(pdmu_board *board) {
    const request stopped = {BOARD_BENCH, board->bench.tag, NULL, 0};
    if (!board->bench.active) return;
    board->bench.active = 0;
    refuse(board, &stopped, ERROR_NOT_NOW, "a RESET has stopped it");
}

static void reset(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 1)) return;
    const uint8_t source = r->payload[0];
    if (source > PDMU_BOARD_MICROPHONE) {
        refuse(board, r, ERROR_VALUE, "no such source");
    } else if ((source == PDMU_BOARD_CLIP && !board->port->has_clip) || (source == PDMU_BOARD_MICROPHONE && !board->port->has_microphone)) {
        refuse(board, r, ERROR_NOT_BUILT_IN, source == PDMU_BOARD_CLIP ? "no clip is built in" : "no microphone is built in");
    } else {
        stop_bench(board);
        board_begin_stream(board, source);
        pdmu_frame_number(reply(board, r), board->source, 1);
        board_send(board);
    }
}

static void pcm(pdmu_board *board, const request *r) {
    if (r->n < 4 || r->n % 2) {
        refuse(board, r, ERROR_VALUE, "wrong length");
        return;
    }
    if (board->source != PDMU_BOARD_SERIAL || board->finished) {
        refuse(board, r, ERROR_NOT_NOW, board->finished ? "the stream has ended: RESET begins another" : "the source is not the line: RESET to 0");
        return;
    }
    const uint32_t samples = (uint32_t)(r->n - 4) / 2;
    if (pdmu_number(r->payload, 4) == board->taken && samples <= board_pcm_free(board)) board_take(board, r->payload + 4, samples);
    if (board->trace_mode) board_drain(board);
    pdmu_frame *f = reply(board, r);
    pdmu_frame_number(f, board->taken, 4);
    pdmu_frame_number(f, board_pcm_free(board), 2);
    board_send(board);
}

static void finish(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 4)) return;
    const uint32_t samples = (uint32_t)pdmu_number(r->payload, 4);
    if (board->source != PDMU_BOARD_SERIAL) {
        refuse(board, r, ERROR_NOT_NOW, "the source is not the line: it has no end");
    } else if (samples > board->taken) {
        refuse(board, r, ERROR_NOT_NOW, "fewer samples have come");
    } else if (samples < board->taken) {
        refuse(board, r, ERROR_VALUE, "more samples have come");
    } else {
        board_finish(board);
        pdmu_frame *f = reply(board, r);
        pdmu_frame_number(f, samples, 4);
        pdmu_frame_number(f, board->send_seq - 1, 4);
        board_send(board);
    }
}

static void ack(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 4)) return;
    const uint32_t seq = (uint32_t)pdmu_number(r->payload, 4);
    if (seq >= board->next_seq) {
        refuse(board, r, ERROR_VALUE, "no such event yet");
        return;
    }
    board_forget(board, seq);
    pdmu_frame_number(reply(board, r), seq, 4);
    board_send(board);
}

static void resend(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 0)) return;
    if (!board->boot) {
        refuse(board, r, ERROR_NOT_NOW, "HELLO comes first");
        return;
    }
    pdmu_frame *f = reply(board, r);
    pdmu_frame_number(f, board->oldest_seq, 4);
    pdmu_frame_number(f, board->next_seq - 1, 4);
    pdmu_frame_number(f, board->lost, 4);
    board_send(board);
    board_repeat(board);
}

static void trace(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 7)) return;
    if (r->payload[0] > BOARD_TRACE_VALUES) {
        refuse(board, r, ERROR_VALUE, "no such mode");
        return;
    }
    board->trace_mode = r->payload[0];
    board->trace_stage = r->payload[1];
    board->trace_index = r->payload[2];
    board->trace_call = (uint32_t)pdmu_number(r->payload + 3, 4);
    pdmu_frame_bytes(reply(board, r), r->payload, r->n);
    board_send(board);
}

static void state(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 4)) return;
    const size_t offset = (size_t)pdmu_number(r->payload, 4), total = sizeof board->stream.state;
    if (offset > total) {
        refuse(board, r, ERROR_VALUE, "behind the end of the state");
        return;
    }
    board_drain(board);
    pdmu_frame *f = reply(board, r);
    pdmu_frame_number(f, total, 4);
    pdmu_frame_bytes(f, (const uint8_t *)&board->stream.state + offset, total - offset < STATE_BYTES ? total - offset : STATE_BYTES);
    board_send(board);
}

static void bench(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 2)) return;
    if (!board->port->ticks) {
        refuse(board, r, ERROR_NOT_BUILT_IN, "no tick counter is built in");
    } else if (board->source != PDMU_BOARD_SERIAL || (board->taken && !board->finished)) {
        refuse(board, r, ERROR_NOT_NOW, "a stream is under way: RESET to 0 first");
    } else {
        board_begin_bench(board, r->tag, (uint32_t)pdmu_number(r->payload, 2));
    }
}

static void reboot(pdmu_board *board, const request *r) {
    if (!has_length(board, r, 4)) return;
    if (pdmu_number(r->payload, 4) != reboot_magic) {
        refuse(board, r, ERROR_VALUE, "wrong magic");
    } else if (!board->port->reboot) {
        refuse(board, r, ERROR_NOT_BUILT_IN, "this board does not restart itself");
    } else {
        board->port->reboot(board->port->context);
    }
}

typedef void (*server)(pdmu_board *board, const request *r);

void board_serve(pdmu_board *board, uint8_t type, uint8_t tag, const uint8_t *payload, size_t n) {
    static const server of_type[] = {
        [BOARD_HELLO] = hello, [BOARD_LABEL] = label,   [BOARD_RESET] = reset, [BOARD_PCM] = pcm,     [BOARD_FINISH] = finish, [BOARD_ACK] = ack,
        [BOARD_RESEND] = resend, [BOARD_TRACE] = trace, [BOARD_STATE] = state, [BOARD_BENCH] = bench, [BOARD_REBOOT] = reboot,
    };
    const request r = {type, tag, payload, n};
    if (board->bench.active && (type == BOARD_PCM || type == BOARD_FINISH || type == BOARD_STATE || type == BOARD_BENCH)) {
        refuse(board, &r, ERROR_NOT_NOW, "a BENCH is under way: RESET stops it");
    } else if (type < sizeof of_type / sizeof *of_type) {
        of_type[type](board, &r);
    } else {
        refuse(board, &r, ERROR_UNKNOWN, "unknown request");
    }
}
