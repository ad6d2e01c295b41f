/* Prints a line of JSON for each sound that a PDM microphone on I2S hears. */
#include <stdio.h>

#include "driver/i2s_pdm.h"
#include "esp_err.h"
#include "sdkconfig.h"

#include "pdmu_listener.h"

#define READ_TIMEOUT_MS 1000

static pdmu_listener listener;
static int16_t pcm[PDMU_SAMPLES_PER_STEP];

static void print_event(const pdmu_event *event) {
    char line[PDMU_EVENT_LINE_BYTES];
    pdmu_event_line(event, line);
    puts(line);
}

static i2s_chan_handle_t start_microphone(void) {
    i2s_chan_handle_t mic;
    const i2s_chan_config_t channel = I2S_CHANNEL_DEFAULT_CONFIG(I2S_NUM_0, I2S_ROLE_MASTER);
    const i2s_pdm_rx_config_t config = {
        .clk_cfg = I2S_PDM_RX_CLK_DEFAULT_CONFIG(PDMU_SAMPLE_RATE_HZ),
        .slot_cfg = I2S_PDM_RX_SLOT_DEFAULT_CONFIG(I2S_DATA_BIT_WIDTH_16BIT, I2S_SLOT_MODE_MONO),
        .gpio_cfg = {.clk = CONFIG_PDMU_MIC_CLOCK_GPIO, .din = CONFIG_PDMU_MIC_DATA_GPIO},
    };
    ESP_ERROR_CHECK(i2s_new_channel(&channel, NULL, &mic));
    ESP_ERROR_CHECK(i2s_channel_init_pdm_rx_mode(mic, &config));
    ESP_ERROR_CHECK(i2s_channel_enable(mic));
    return mic;
}

void app_main(void) {
    const i2s_chan_handle_t mic = start_microphone();
    pdmu_listener_init(&listener);
    for (;;) {
        size_t bytes = 0;
        ESP_ERROR_CHECK(i2s_channel_read(mic, pcm, sizeof pcm, &bytes, READ_TIMEOUT_MS));
        pdmu_listen(&listener, pcm, (int32_t)(bytes / sizeof *pcm), print_event);
    }
}
