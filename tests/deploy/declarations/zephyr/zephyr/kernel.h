#pragma once
#include <stddef.h>
#include <stdint.h>

#define ARG_UNUSED(x) (void)(x)
#define CONFIG_BOARD "xiao_ble"

struct k_mem_slab {
    char *buffer;
    size_t block_size;
};
#define K_MEM_SLAB_DEFINE_STATIC(name, size, count, align) \
    static char memory_of_##name[(size) * (count)] __attribute__((aligned(align))); \
    static struct k_mem_slab name = {memory_of_##name, size}
void k_mem_slab_free(struct k_mem_slab *slab, void *mem);

typedef struct {
    int64_t ticks;
} k_timeout_t;
#define K_NO_WAIT ((k_timeout_t){0})

struct k_msgq {
    size_t size, count;
};
#define K_MSGQ_DEFINE(name, size, count, align) struct k_msgq name = {size, count}
int k_msgq_put(struct k_msgq *queue, const void *data, k_timeout_t timeout);
int k_msgq_get(struct k_msgq *queue, void *data, k_timeout_t timeout);

typedef char k_thread_stack_t;
typedef struct k_thread *k_tid_t;
typedef void (*k_thread_entry_t)(void *, void *, void *);
struct k_thread {
    int state;
};
#define K_THREAD_STACK_DEFINE(name, bytes) k_thread_stack_t name[bytes]
#define K_PRIO_COOP(x) (-16 + (x))
k_tid_t k_thread_create(struct k_thread *made, k_thread_stack_t *stack, size_t stack_bytes, k_thread_entry_t entry, void *p1, void *p2, void *p3,
                        int priority, uint32_t options, k_timeout_t delay);
int32_t k_msleep(int32_t ms);
uint32_t k_uptime_get_32(void);
