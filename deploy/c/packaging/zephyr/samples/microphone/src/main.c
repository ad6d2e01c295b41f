/* Prints a line of JSON for each sound that the PDM microphone `dmic_dev` hears. */
#include <zephyr/audio/dmic.h>
#include <zephyr/device.h>
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>

#include "pdmu_listener.h"

#define BLOCK_BYTES (PDMU_SAMPLES_PER_STEP * sizeof(int16_t))
#define BLOCKS 8
#define READ_TIMEOUT_MS 1000

K_MEM_SLAB_DEFINE_STATIC(blocks, BLOCK_BYTES, BLOCKS, 4);

static pdmu_listener listener;

static void print_event(const pdmu_event *event) {
    char line[PDMU_EVENT_LINE_BYTES];
    pdmu_event_line(event, line);
    printk("%s\n", line);
}

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

int main(void) {
    const struct device *const mic = DEVICE_DT_GET(DT_NODELABEL(dmic_dev));
    if (!device_is_ready(mic)) {
        printk("error: the microphone is not ready; does the board's overlay enable its PDM peripheral?\n");
        return 0;
    }
    pdmu_listener_init(&listener);
    int failed = start(mic);
    while (!failed) {
        void *block;
        size_t bytes;
        failed = dmic_read(mic, 0, &block, &bytes, READ_TIMEOUT_MS);
        if (failed) break;
        pdmu_listen(&listener, block, (int32_t)(bytes / sizeof(int16_t)), print_event);
        k_mem_slab_free(&blocks, block);
    }
    printk("error: the microphone stopped: %d\n", failed);
    return 0;
}
