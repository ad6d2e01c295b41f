/* libFuzzer on a board's line: whatever comes, at any time, the board neither breaks nor breaks PROTOCOL.md.
 *
 * Input: a list of deeds of two bytes each, what and how much: bytes as they are, a whole request, work, or time that passes. Built and run by
 * deploy/fuzz.py, with sanitizers, and with memories so small that they are soon full.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "board_internal.h"
#include "golden.h"

enum { FEED, ASK, WORK, WAIT, DEEDS };
enum { MOST_WORK = 32, WAIT_UNIT_MS = 100, EVENT_BYTES = 48 };

static pdmu_board board;
static pdmu_deframer host;
static int16_t clip[PDMU_GOLDEN_SAMPLES];
static uint32_t now_ms, seed, played;
static uint8_t asked_type, asked_tag; /* type 0: no answer is due at once */
static uint8_t timing, bench_tag;     /* whether the answer to a BENCH is due at any time */
static uint32_t last_seq;

static void require(int held, const char *what) {
    if (held) return;
    fprintf(stderr, "pdmu fuzz: %s\n", what);
    abort();
}

static void check_reply(uint8_t type, uint8_t tag) {
    if (timing && tag == bench_tag && (type == BOARD_ERROR ? host.bytes[2] : type & ~BOARD_REPLY) == BOARD_BENCH && !board.bench.active) {
        timing = 0;
        return;
    }
    require(asked_type != 0 && tag == asked_tag, "an answer that nobody waits for");
    require(type == BOARD_ERROR ? host.bytes[2] == asked_type : type == (asked_type | BOARD_REPLY), "an answer to another request");
    asked_type = 0;
}

static void check_event(const uint8_t *payload, size_t n) {
    const uint32_t seq = (uint32_t)pdmu_number(payload, 4);
    require(n == EVENT_BYTES && payload[4] < PDMU_N_LABELS && payload[5] <= PDMU_REFRACTORY, "an event that makes no sense");
    require(board.boot != 0, "an event before HELLO");
    require(seq < board.next_seq && (seq == 0) == (payload[5] >= PDMU_TOO_SHORT), "an event with a wrong number");
}

/* Everything that the board says is one whole frame of a kind that it may send. */
static void check_frame(void *context, const uint8_t *bytes, size_t n) {
    (void)context;
    size_t size = 0;
    for (size_t i = 0; i < n; i++) {
        require(size == 0, "two frames at once");
        size = pdmu_deframer_byte(&host, bytes[i]);
    }
    require(size >= 2 && bytes[0] == 0, "bytes that are no frame");
    const uint8_t type = host.bytes[0], tag = host.bytes[1];
    if (type & BOARD_REPLY) {
        check_reply(type, tag);
    } else {
        require(tag == 0 && type >= BOARD_EVENT && type <= BOARD_HEALTH, "a notice of no known kind");
        if (type == BOARD_EVENT) check_event(host.bytes + 2, size - 2);
    }
}

static uint32_t milliseconds(void *context) {
    (void)context;
    return now_ms;
}

/* The golden signal round and round, in pieces of any length. */
static int32_t samples(void *context, int16_t *pcm, int32_t n) {
    (void)context;
    seed = 1664525u * seed + 1013904223u;
    const int32_t given = n - (int32_t)((seed >> 16) % 4u ? 0u : (seed >> 18) % (uint32_t)(n + 1));
    for (int32_t i = 0; i < given; i++) pcm[i] = clip[played++ % PDMU_GOLDEN_SAMPLES];
    return given;
}

static void reboot(void *context) {
    (void)context;
    asked_type = 0;
}

static const pdmu_board_port port = {
    .board = "fuzzed",
    .firmware = PDMU_BOARD_VERSION,
    .write = check_frame,
    .milliseconds = milliseconds,
    .reboot = reboot,
    .ticks = milliseconds,
    .tick_hz = 1000,
    .has_clip = 1,
    .samples = samples,
};

static void feed(const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) pdmu_board_byte(&board, bytes[i]);
}

/* A request has been heard: it was answered, or it is a BENCH that has begun. */
static void check_answered(void) {
    if (asked_type == BOARD_BENCH && board.bench.active && !timing) {
        timing = 1;
        bench_tag = asked_tag;
        asked_type = 0;
    }
    require(asked_type == 0, "no answer");
}

/* Send a request and hold the board to its one answer. */
static void ask(const uint8_t *bytes, size_t n) {
    static const uint8_t end = 0;
    pdmu_frame frame;
    const uint8_t type = (uint8_t)(1 + bytes[0] % BOARD_LAST_REQUEST), tag = bytes[1];
    feed(&end, 1); /* whatever came before has ended */
    pdmu_frame_begin(&frame, type, tag);
    pdmu_frame_bytes(&frame, bytes + 2, n - 2);
    asked_type = type;
    asked_tag = tag;
    feed(frame.bytes, pdmu_frame_end(&frame));
    check_answered();
}

/* Bytes as they are may be a request too: any answer will do. */
static void feed_unchecked(const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        pdmu_deframer ahead = board.in;
        const size_t size = pdmu_deframer_byte(&ahead, bytes[i]);
        asked_type = size && ahead.bytes[0] && ahead.bytes[0] <= BOARD_LAST_REQUEST ? ahead.bytes[0] : 0;
        asked_tag = ahead.bytes[1];
        feed(bytes + i, 1);
        check_answered();
    }
}

static void check_board(void) {
    require(board.next_seq - board.oldest_seq <= PDMU_BOARD_EVENTS, "more events kept than there is room for");
    require(board.send_seq - board.oldest_seq <= board.next_seq - board.oldest_seq, "an event to be sent that is not kept");
    require(board.next_seq >= last_seq, "a number given twice");
    require(board.bench.active == timing, "a BENCH without an answer");
    require(board.oldest_seq == board.next_seq || !board.kept[board.oldest_seq % PDMU_BOARD_EVENTS].dropped, "a dropped event that is kept");
    require(board.taken - board.used <= PDMU_BOARD_PCM_SAMPLES, "more samples taken than there is room for");
    last_seq = board.next_seq;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    memset(&host, 0, sizeof host);
    now_ms = played = asked_type = timing = 0;
    seed = last_seq = 1;
    if (!clip[0]) pdmu_golden_pcm(clip);
    pdmu_board_init(&board, &port);
    for (size_t at = 0; at + 2 <= size;) {
        const uint8_t deed = data[at] % DEEDS, amount = data[at + 1];
        const uint8_t *bytes = data + at + 2;
        const size_t left = size - at - 2;
        at += 2;
        if (deed == WAIT) {
            now_ms += amount * WAIT_UNIT_MS;
        } else if (deed == WORK) {
            for (int i = amount % MOST_WORK; i >= 0 && pdmu_board_poll(&board); i--) check_board();
        } else {
            size_t n = amount < left ? amount : left;
            if (deed == FEED) {
                feed_unchecked(bytes, n);
            } else if (n >= 2) {
                n = n < PDMU_FRAME_PAYLOAD + 2 ? n : PDMU_FRAME_PAYLOAD + 2;
                ask(bytes, n);
            }
            at += n;
        }
        check_board();
    }
    return 0;
}
