#include "line.h"

#include "esp_err.h"
#include "freertos/FreeRTOS.h"
#include "sdkconfig.h"

#define RX_BYTES 1024
#define TX_BYTES 1024

#if CONFIG_PDMU_LINE_USB
#include "driver/usb_serial_jtag.h"

#define WRITE_WAIT_MS 50

void line_open(void) {
    usb_serial_jtag_driver_config_t config = {.tx_buffer_size = TX_BYTES, .rx_buffer_size = RX_BYTES};
    ESP_ERROR_CHECK(usb_serial_jtag_driver_install(&config));
}

int line_read(uint8_t *bytes, size_t n, uint32_t wait) { return usb_serial_jtag_read_bytes(bytes, n, wait); }

void line_write(const uint8_t *bytes, size_t n) { (void)usb_serial_jtag_write_bytes(bytes, n, pdMS_TO_TICKS(WRITE_WAIT_MS)); }
#else
#include "driver/uart.h"

#define LINE UART_NUM_0

void line_open(void) {
    const uart_config_t config = {
        .baud_rate = 115200,
        .data_bits = UART_DATA_8_BITS,
        .parity = UART_PARITY_DISABLE,
        .stop_bits = UART_STOP_BITS_1,
        .flow_ctrl = UART_HW_FLOWCTRL_DISABLE,
        .source_clk = UART_SCLK_DEFAULT,
    };
    ESP_ERROR_CHECK(uart_driver_install(LINE, RX_BYTES, TX_BYTES, 0, NULL, 0));
    ESP_ERROR_CHECK(uart_param_config(LINE, &config));
}

int line_read(uint8_t *bytes, size_t n, uint32_t wait) { return uart_read_bytes(LINE, bytes, n, wait); }

void line_write(const uint8_t *bytes, size_t n) { (void)uart_write_bytes(LINE, bytes, n); }
#endif
