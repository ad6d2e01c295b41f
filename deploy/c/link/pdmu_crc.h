/* Cyclic redundancy checks: of frames on the line, and of a stage's integers. Tables of 16 entries: a microcontroller's flash is small. */
#ifndef PDMU_CRC_H
#define PDMU_CRC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* CRC-16/XMODEM of n more bytes; begins with 0. */
uint16_t pdmu_crc16(uint16_t crc, const void *bytes, size_t n);

/* CRC-32 of IEEE 802.3 of n more bytes, as zlib's crc32: begins with 0. */
uint32_t pdmu_crc32(uint32_t crc, const void *bytes, size_t n);

#ifdef __cplusplus
}
#endif

#endif
