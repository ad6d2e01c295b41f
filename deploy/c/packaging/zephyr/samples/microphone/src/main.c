/* Hears the PDM microphone `dmic_dev` and tells a host on the console's line, pdmu-console, what it detects. */
#include <errno.h>

#include <zephyr/audio/dmic.h>
#include <zephyr/device.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>
#include <zephyr/sys/reboot.h>
#include <zephyr/timing/timing.h>

#include "line.h"
#include "pdmu_microphone.h"

#define BLOCK_BYTES (PDMU_SAMPLES_PER_STEP * sizeof(int16_t))
#define BLOCKS 8
#define READ_TIMEOUT_MS 1000
#define LISTEN_STACK_BYTES 1024

K_MEM_SLAB_DEFINE_STATIC(blocks, BLOCK_BYTES, BLOCKS, 4);
K_THREAD_STACK_DEFINE(listen_stack, LISTEN_STACK_BYTES);

static struct k_thread listen_thread;
static pdmu_microphone microphone;
static pdmu_board board;

static int start(const struct device *mic) {
    struct pcm_stream_cfg stream = {
        .pcm_rate = PDMU_SAMPLE_RATE_HZ,
        .pcm_width = 16,
        .block_size = BLOCK_BYTES,
        .mem_slab = &blocks,
    };
    struct dmic_cfg config = {
        .io = {.min_pdm_clk_freq = 1000000, .max_pdm_clk_freq = 3500000, .min_pdm_clk_dc = 40, .max_pdm_clk_dc = 60},
        .streams = &stream,
        .channel = {
            .req_num_streams = 1,
            .req_num_chan = 1,
            .req_chan_map_lo = dmic_build_channel_map(0, 0, PDM_CHAN_LEFT),
        },
    };
    const int failed = dmic_configure(mic, &config);
    return failed ? failed : dmic_trigger(mic, DMIC_TRIGGER_START);
}

/* A thread: takes the driver's blocks at once, however long a hop is computed. */
static void listen(void *mic, void *unused, void *unused_too) {
    void *block;
    size_t bytes;
    int failed;
    ARG_UNUSED(unused);
    ARG_UNUSED(unused_too);
    while (!(failed = dmic_read(mic, 0, &block, &bytes, READ_TIMEOUT_MS))) {
        pdmu_microphone_put(&microphone, block, (int32_t)(bytes / sizeof(int16_t)));
        k_mem_slab_free(&blocks, block);
    }
    printk("error: the microphone stopped: %d\n", failed);
}

static void write_bytes(void *context, const uint8_t *bytes, size_t n) {
    ARG_UNUSED(context);
    line_write(bytes, n);
}

static uint32_t milliseconds(void *context) {
    ARG_UNUSED(context);
    return k_uptime_get_32();
}

static uint32_t ticks(void *context) {
    ARG_UNUSED(context);
    return (uint32_t)timing_counter_get();
}

static void reboot(void *context) {
    ARG_UNUSED(context);
    sys_reboot(SYS_REBOOT_COLD);
}

int main(void) {
    const struct device *const mic = DEVICE_DT_GET(DT_NODELABEL(dmic_dev));
    timing_init();
    timing_start();
    pdmu_board_port port = {
        .board = CONFIG_BOARD,
        .firmware = PDMU_BOARD_VERSION,
        .write = write_bytes,
        .milliseconds = milliseconds,
        .reboot = reboot,
        .ticks = ticks,
        .tick_hz = (uint32_t)timing_freq_get(),
    };
    pdmu_microphone_lend(&microphone, &port);
    const int no_line = line_open();
    const int no_microphone = device_is_ready(mic) ? start(mic) : -ENODEV;
    if (no_line || no_microphone) {
        printk("error: line %d, microphone %d: does the board's overlay enable its PDM peripheral?\n", no_line, no_microphone);
        return 0;
    }
    pdmu_board_init(&board, &port);
    k_thread_create(&listen_thread, listen_stack, LISTEN_STACK_BYTES, listen, (void *)mic, NULL, NULL, K_PRIO_COOP(1), 0, K_NO_WAIT);
    for (;;) {
        for (int byte = line_read(); byte >= 0; byte = line_read()) pdmu_board_byte(&board, (uint8_t)byte);
        if (!pdmu_board_poll(&board)) k_msleep(1);
    }
}
