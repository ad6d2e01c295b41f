/* Hears a PDM microphone on I2S and tells a host on the line, pdmu-console, what it detects. */
#include "driver/i2s_pdm.h"
#include "esp_err.h"
#include "esp_system.h"
#include "esp_timer.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "sdkconfig.h"

#include "line.h"
#include "pdmu_microphone.h"

#define READ_TIMEOUT_MS 1000
#define LISTEN_STACK_BYTES 3072
#define LISTEN_PRIORITY 5 /* above the main task's, so that it interrupts a hop */

static pdmu_microphone microphone;
static pdmu_board board;

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

static void listen(void *mic) {
    static int16_t pcm[PDMU_SAMPLES_PER_STEP];
    for (;;) {
        size_t bytes = 0;
        ESP_ERROR_CHECK(i2s_channel_read(mic, pcm, sizeof pcm, &bytes, READ_TIMEOUT_MS));
        pdmu_microphone_put(&microphone, pcm, (int32_t)(bytes / sizeof *pcm));
    }
}

static void write_bytes(void *context, const uint8_t *bytes, size_t n) {
    (void)context;
    line_write(bytes, n);
}

static uint32_t milliseconds(void *context) {
    (void)context;
    return (uint32_t)(esp_timer_get_time() / 1000);
}

static uint32_t ticks(void *context) {
    (void)context;
    return (uint32_t)esp_timer_get_time();
}

static void reboot(void *context) {
    (void)context;
    esp_restart();
}

void app_main(void) {
    pdmu_board_port port = {
        .board = CONFIG_IDF_TARGET,
        .firmware = PDMU_BOARD_VERSION,
        .write = write_bytes,
        .milliseconds = milliseconds,
        .reboot = reboot,
        .ticks = ticks,
        .tick_hz = 1000000,
    };
    uint8_t bytes[64];
    int32_t more = 0;
    pdmu_microphone_lend(&microphone, &port);
    line_open();
    pdmu_board_init(&board, &port);
    xTaskCreate(listen, "listen", LISTEN_STACK_BYTES, start_microphone(), LISTEN_PRIORITY, NULL);
    for (;;) {
        const int n = line_read(bytes, sizeof bytes, more ? 0 : 1);
        for (int i = 0; i < n; i++) pdmu_board_byte(&board, bytes[i]);
        more = pdmu_board_poll(&board);
    }
}
