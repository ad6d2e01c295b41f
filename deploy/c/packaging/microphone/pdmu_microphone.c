#include "pdmu_microphone.h"

#define RING ((uint32_t)PDMU_MICROPHONE_SAMPLES)
typedef char assert_ring_is_a_power_of_two[(PDMU_MICROPHONE_SAMPLES & (PDMU_MICROPHONE_SAMPLES - 1u)) == 0 ? 1 : -1];

/* The driver may run on another core. */
static uint32_t load(const uint32_t *value) { return __atomic_load_n(value, __ATOMIC_ACQUIRE); }
static void store(uint32_t *value, uint32_t to) { __atomic_store_n(value, to, __ATOMIC_RELEASE); }

void pdmu_microphone_put(pdmu_microphone *microphone, const int16_t *pcm, int32_t n) {
    if (!load(&microphone->listening)) return;
    const uint32_t put = microphone->put, room = RING - (put - load(&microphone->taken));
    const uint32_t fit = (uint32_t)n < room ? (uint32_t)n : room;
    for (uint32_t i = 0; i < fit; i++) microphone->pcm[(put + i) % RING] = pcm[i];
    store(&microphone->put, put + fit);
    store(&microphone->dropped, microphone->dropped + (uint32_t)n - fit);
}

static int32_t take(void *context, int16_t *pcm, int32_t n) {
    pdmu_microphone *microphone = context;
    const uint32_t taken = microphone->taken, there = load(&microphone->put) - taken;
    const uint32_t given = (uint32_t)n < there ? (uint32_t)n : there;
    for (uint32_t i = 0; i < given; i++) pcm[i] = microphone->pcm[(taken + i) % RING];
    store(&microphone->taken, taken + given);
    return (int32_t)given;
}

static void begin_stream(void *context, uint8_t source) {
    pdmu_microphone *microphone = context;
    store(&microphone->taken, load(&microphone->put)); /* what was heard before is of no stream */
    store(&microphone->listening, source == PDMU_BOARD_MICROPHONE);
}

static uint32_t count_dropped(void *context) { return load(&((pdmu_microphone *)context)->dropped); }

void pdmu_microphone_lend(pdmu_microphone *microphone, pdmu_board_port *port) {
    port->context = microphone;
    port->has_microphone = 1;
    port->source = PDMU_BOARD_MICROPHONE;
    port->select = begin_stream;
    port->samples = take;
    port->dropped = count_dropped;
}
