/* Declarations alone of what the sample uses of Zephyr. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct device;
bool device_is_ready(const struct device *dev);
extern const struct device device_dmic_dev, device_zephyr_console;
#define DT_NODELABEL(label) label
#define DT_CHOSEN(chosen) chosen
#define DEVICE_OF(node) (&device_##node)
#define DEVICE_DT_GET(node) DEVICE_OF(node)
