#pragma once
#include <stddef.h>

struct k_mem_slab {
    char *buffer;
    size_t block_size;
};
#define K_MEM_SLAB_DEFINE_STATIC(name, size, count, align) \
    static char memory_of_##name[(size) * (count)] __attribute__((aligned(align))); \
    static struct k_mem_slab name = {memory_of_##name, size}
void k_mem_slab_free(struct k_mem_slab *slab, void *mem);
