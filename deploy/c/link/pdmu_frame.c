#include "pdmu_frame.h"

#include <string.h>

#include "pdmu_crc.h"

enum { TYPE = 2, TAG = 3, PAYLOAD = 4, CRC_BYTES = 2 }; /* places in a frame being written: 00, first distance, body */

void pdmu_frame_begin(pdmu_frame *frame, uint8_t type, uint8_t tag) {
    frame->bytes[TYPE] = type;
    frame->bytes[TAG] = tag;
    frame->size = 0;
}

void pdmu_frame_bytes(pdmu_frame *frame, const void *bytes, size_t n) {
    const size_t room = PDMU_FRAME_PAYLOAD - frame->size, taken = n < room ? n : room;
    memcpy(frame->bytes + PAYLOAD + frame->size, bytes, taken);
    frame->size += taken;
}

void pdmu_frame_number(pdmu_frame *frame, uint64_t value, size_t bytes) {
    uint8_t raw[8];
    for (size_t i = 0; i < bytes; i++) raw[i] = (uint8_t)(value >> 8 * i);
    pdmu_frame_bytes(frame, raw, bytes);
}

void pdmu_frame_string(pdmu_frame *frame, const char *text, size_t most) {
    size_t n = 0;
    while (n < most && text[n]) n++;
    if (text[n]) { /* cut: not in the middle of a character */
        while (n && ((unsigned char)text[n] & 0xC0u) == 0x80u) n--;
    }
    pdmu_frame_bytes(frame, text, n);
    pdmu_frame_number(frame, 0, 1);
}

size_t pdmu_frame_end(pdmu_frame *frame) {
    uint8_t *body = frame->bytes + TYPE;
    size_t size = PAYLOAD - TYPE + frame->size;
    const uint16_t crc = pdmu_crc16(0, body, size);
    body[size++] = (uint8_t)crc;
    body[size++] = (uint8_t)(crc >> 8);
    const size_t end = TYPE + size;
    size_t last = TYPE - 1; /* the place of the distance that is not known yet */
    for (size_t i = TYPE; i < end; i++) {
        if (frame->bytes[i]) continue;
        frame->bytes[last] = (uint8_t)(i - last);
        last = i;
    }
    frame->bytes[last] = (uint8_t)(end - last);
    frame->bytes[0] = frame->bytes[end] = 0;
    return end + 1;
}

/* Undo the byte stuffing and return the length, or 0 for what is no code. */
static size_t decode(uint8_t *bytes, size_t size) {
    size_t at = 0;
    while (at < size) {
        const size_t next = at + bytes[at];
        bytes[at] = 0;
        at = next;
    }
    if (!size || at != size) return 0;
    memmove(bytes, bytes + 1, size - 1);
    return size - 1;
}

size_t pdmu_deframer_byte(pdmu_deframer *deframer, uint8_t byte) {
    uint8_t *bytes = deframer->bytes;
    if (byte) {
        if (deframer->size < PDMU_FRAME_CODE) deframer->bytes[deframer->size] = byte; /* by its array, whose end a sanitizer knows */
        if (deframer->size <= PDMU_FRAME_CODE) deframer->size++;
        return 0;
    }
    const size_t size = deframer->size > PDMU_FRAME_CODE ? 0 : decode(bytes, deframer->size);
    deframer->size = 0;
    if (size < 2 + CRC_BYTES || pdmu_crc16(0, bytes, size - CRC_BYTES) != pdmu_number(bytes + size - CRC_BYTES, CRC_BYTES)) return 0;
    return size - CRC_BYTES;
}

uint64_t pdmu_number(const uint8_t *bytes, size_t n) {
    uint64_t value = 0;
    while (n--) value = value << 8 | bytes[n];
    return value;
}
