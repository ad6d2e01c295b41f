/* Frames on the wire, 00 COBS(type, tag, payload, CRC-16/XMODEM) 00, as PROTOCOL.md has them. Consistent overhead byte stuffing (Cheshire
 * and Baker 1999) of so few bytes replaces each zero by the distance to the next one: it is done and undone in place. */
#ifndef PDMU_FRAME_H
#define PDMU_FRAME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PDMU_FRAME_PAYLOAD 240u
#define PDMU_FRAME_BODY (PDMU_FRAME_PAYLOAD + 4u)
#define PDMU_FRAME_CODE (PDMU_FRAME_BODY + 1u)
#define PDMU_FRAME_WIRE (PDMU_FRAME_CODE + 2u)

/* A frame being written. */
typedef struct {
    uint8_t bytes[PDMU_FRAME_WIRE]; /* what goes over the wire, once ended */
    size_t size;                    /* of the payload so far */
} pdmu_frame;

void pdmu_frame_begin(pdmu_frame *frame, uint8_t type, uint8_t tag);

/* Append to the payload; what does not fit is left out. A number has 1 to 8 bytes, the lowest first; of a string come at most `most`
 * bytes, whole characters of UTF-8, and a zero byte. */
void pdmu_frame_number(pdmu_frame *frame, uint64_t value, size_t bytes);
void pdmu_frame_bytes(pdmu_frame *frame, const void *bytes, size_t n);
void pdmu_frame_string(pdmu_frame *frame, const char *text, size_t most);

/* Close the frame and return how many of `bytes` go over the wire. */
size_t pdmu_frame_end(pdmu_frame *frame);

/* A receiver: zero it, then feed it. */
typedef struct {
    uint8_t bytes[PDMU_FRAME_CODE]; /* since the last zero */
    size_t size;                    /* one more than fit: too long for a frame */
} pdmu_deframer;

/* Take a byte. When it ends a whole frame, its type, tag and payload stand in `bytes` until the next call, which returns their length
 * (at least 2); otherwise 0. What is no frame costs itself alone. */
size_t pdmu_deframer_byte(pdmu_deframer *deframer, uint8_t byte);

/* A number of 1 to 8 bytes, the lowest first. */
uint64_t pdmu_number(const uint8_t *bytes, size_t n);

#ifdef __cplusplus
}
#endif

#endif
