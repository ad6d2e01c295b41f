/* Declarations alone of what the program uses of ESP-IDF. */
#pragma once
#include <stdint.h>

typedef int esp_err_t;
void esp_error_check_failed(esp_err_t error);
#define ESP_ERROR_CHECK(call) do { const esp_err_t error_ = (call); if (error_) esp_error_check_failed(error_); } while (0)
