/* The board's side of PROTOCOL.md: requests from a host, a stream of samples through the model that is linked in, its events kept until the
 * host has them. Like the runtime: memory is the caller's, no heap, no floating point, no variables of its own.
 *
 *     static pdmu_board board;
 *     pdmu_board_init(&board, &port);
 *     for (;;) {
 *         while (a byte has come) pdmu_board_byte(&board, byte);
 *         if (!pdmu_board_poll(&board)) sleep until a byte, a sample or the next 100 ms;
 *     }
 *
 * None of the calls may interrupt another. A hop of audio takes its time: the port's receive buffer must hold what comes meanwhile.
 */
#ifndef PDMU_BOARD_H
#define PDMU_BOARD_H

#include "model_data.h"
#include "pdmu_frame.h"

#ifdef __cplusplus
extern "C" {
#endif

#define PDMU_BOARD_PROTOCOL 1u
#define PDMU_BOARD_VERSION "1.0.0" /* of this code, for a port that has no version of its own */

#ifndef PDMU_BOARD_PCM_SAMPLES
#define PDMU_BOARD_PCM_SAMPLES 1024u /* samples that wait for the runtime: a power of two, at most 32768 */
#endif
#ifndef PDMU_BOARD_EVENTS
#define PDMU_BOARD_EVENTS 16u /* detections kept until the host acknowledges them */
#endif

enum pdmu_board_source { PDMU_BOARD_SERIAL = 0, PDMU_BOARD_CLIP = 1, PDMU_BOARD_MICROPHONE = 2 };

/* What a board lends. A null function is something that it does not have; `write` and `milliseconds` it must. */
typedef struct {
    void *context; /* handed to each function */
    const char *board, *firmware;
    void (*write)(void *context, const uint8_t *bytes, size_t n); /* returns when the bytes are on their way, or lost */
    uint32_t (*milliseconds)(void *context);                      /* since the start; goes round */
    void (*reboot)(void *context);
    uint32_t (*ticks)(void *context);                             /* a counter of tick_hz that goes round; null leaves BENCH out */
    uint32_t tick_hz;
    uint16_t instructions_per_tick;                               /* 0 where ticks are time */
    uint32_t (*stack_free)(void *context);                        /* bytes of stack never used */
    uint8_t has_clip, has_microphone;
    uint8_t source;                                               /* enum pdmu_board_source: of the first stream, and where no host is */
    void (*select)(void *context, uint8_t source);                /* a new stream begins: rewind the clip, start or stop the microphone */
    int32_t (*samples)(void *context, int16_t *pcm, int32_t n);   /* the next 0 to n samples of the clip or microphone */
    uint32_t (*dropped)(void *context);                           /* samples that `samples` was asked for too late, since the start */
} pdmu_board_port;

/* Energy of samples, and how many of them are at full scale. */
typedef struct {
    uint64_t energy;
    uint32_t clipped;
} pdmu_board_level;

/* A detection. */
typedef struct {
    pdmu_event event;
    pdmu_board_level level;
    uint8_t dropped; /* nobody will ask for it: its place in the ring alone is still taken */
} pdmu_board_event;

/* A BENCH under way. */
typedef struct {
    uint8_t active, tag;
    uint32_t hops, done;
    uint32_t noise;          /* the generator's state */
    uint32_t spent[3];       /* ticks: front end, network, detector */
    uint32_t features_ticks; /* when the front end was done */
} pdmu_board_bench;

typedef struct {
    const pdmu_board_port *port;
    pdmu_deframer in;
    pdmu_frame out;

    uint64_t boot; /* 0 before the first HELLO */
    uint32_t heard_ms, health_ms;
    uint8_t heard, health_due;

    uint8_t source, finished;
    uint32_t taken, used;    /* samples since RESET that came, and that the runtime has */
    uint32_t frames;         /* of the front end since RESET */
    int32_t hop_fill;        /* samples of the hop begun */
    pdmu_board_level step, hearing, of_label[PDMU_N_LABELS]; /* of the step begun, since the last HEALTH, of labels' events so far */
    uint32_t hearing_samples;
    pdmu_stream_data stream;
    pdmu_detector_state detector;
    int16_t scores[PDMU_N_LABELS];
    pdmu_event found[PDMU_N_LABELS];
    int16_t pcm[PDMU_BOARD_PCM_SAMPLES]; /* a ring */

    uint32_t oldest_seq, next_seq; /* of the events kept, a ring */
    uint32_t send_seq;             /* the next to be sent */
    uint32_t lent_seq;             /* the first that comes from another source than the port's own, while the stream does */
    uint32_t repeat_ms, lost;
    pdmu_board_event kept[PDMU_BOARD_EVENTS];

    uint8_t trace_mode, trace_stage, trace_index;
    uint32_t trace_call;
    pdmu_board_bench bench;
} pdmu_board;

/* `port` must live as long as the board. */
void pdmu_board_init(pdmu_board *board, const pdmu_board_port *port);

/* Take a byte from the line; a byte that ends a request is answered at once, but for BENCH. FINISH, STATE and, under TRACE, PCM compute what
 * waits first: at most PDMU_BOARD_PCM_SAMPLES of audio. */
void pdmu_board_byte(pdmu_board *board, uint8_t byte);

/* Do a piece of work: send an event, or at most a hop of audio, or of BENCH. 1 when there is more to do at once. */
int32_t pdmu_board_poll(pdmu_board *board);

#ifdef __cplusplus
}
#endif

#endif
