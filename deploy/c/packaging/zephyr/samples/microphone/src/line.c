#include <errno.h>

#include <zephyr/device.h>
#include <zephyr/drivers/uart.h>
#include <zephyr/kernel.h>

#include "line.h"

#define WAITING_BYTES 512 /* what comes while a hop is computed: 44 ms at 115200 baud */

K_MSGQ_DEFINE(waiting, 1, WAITING_BYTES, 1);

static const struct device *const uart = DEVICE_DT_GET(DT_CHOSEN(zephyr_console));

static void receive(const struct device *dev, void *context) {
    uint8_t byte;
    ARG_UNUSED(context);
    while (uart_irq_update(dev) && uart_irq_rx_ready(dev)) {
        if (uart_fifo_read(dev, &byte, 1) != 1) return;
        (void)k_msgq_put(&waiting, &byte, K_NO_WAIT); /* what does not fit is repeated by the protocol */
    }
}

int line_open(void) {
    if (!device_is_ready(uart)) return -ENODEV;
    const int failed = uart_irq_callback_user_data_set(uart, receive, NULL);
    if (!failed) uart_irq_rx_enable(uart);
    return failed;
}

int line_read(void) {
    uint8_t byte;
    return k_msgq_get(&waiting, &byte, K_NO_WAIT) == 0 ? byte : -1;
}

void line_write(const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) uart_poll_out(uart, bytes[i]);
}
