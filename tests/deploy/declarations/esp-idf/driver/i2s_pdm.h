#pragma once
#include <stddef.h>
#include <stdint.h>

#include "esp_err.h"

typedef struct i2s_channel *i2s_chan_handle_t;
typedef struct {
    int id, role;
} i2s_chan_config_t;
typedef struct {
    uint32_t sample_rate_hz;
} i2s_pdm_rx_clk_config_t;
typedef struct {
    int data_bit_width, slot_mode;
} i2s_pdm_rx_slot_config_t;
typedef struct {
    int clk;
    union {
        int din;
        int dins[4];
    };
} i2s_pdm_rx_gpio_config_t;
typedef struct {
    i2s_pdm_rx_clk_config_t clk_cfg;
    i2s_pdm_rx_slot_config_t slot_cfg;
    i2s_pdm_rx_gpio_config_t gpio_cfg;
} i2s_pdm_rx_config_t;
enum { I2S_NUM_0, I2S_ROLE_MASTER, I2S_DATA_BIT_WIDTH_16BIT, I2S_SLOT_MODE_MONO };
#define I2S_CHANNEL_DEFAULT_CONFIG(i2s_num, i2s_role) {.id = i2s_num, .role = i2s_role}
#define I2S_PDM_RX_CLK_DEFAULT_CONFIG(rate) {.sample_rate_hz = rate}
#define I2S_PDM_RX_SLOT_DEFAULT_CONFIG(bits, mono_or_stereo) {.data_bit_width = bits, .slot_mode = mono_or_stereo}
esp_err_t i2s_new_channel(const i2s_chan_config_t *config, i2s_chan_handle_t *tx, i2s_chan_handle_t *rx);
esp_err_t i2s_channel_init_pdm_rx_mode(i2s_chan_handle_t handle, const i2s_pdm_rx_config_t *config);
esp_err_t i2s_channel_enable(i2s_chan_handle_t handle);
esp_err_t i2s_channel_read(i2s_chan_handle_t handle, void *dest, size_t size, size_t *bytes_read, uint32_t timeout_ms);
