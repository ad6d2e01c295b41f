#pragma once
#include "freertos/FreeRTOS.h"

typedef void (*TaskFunction_t)(void *);
typedef struct task *TaskHandle_t;
BaseType_t xTaskCreate(TaskFunction_t code, const char *name, uint32_t stack_bytes, void *context, UBaseType_t priority, TaskHandle_t *made);
