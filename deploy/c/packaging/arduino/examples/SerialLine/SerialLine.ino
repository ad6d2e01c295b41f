/* Needs no microphone: a host on the USB cable, pdmu-console, sends what the board hears, compares all that it computes, and times it. */
#include <Arduino.h>
#include <pdmu_board.h>

static pdmu_board_port port;
static pdmu_board board;

static void write_bytes(void *, const uint8_t *bytes, size_t n) {
  if (Serial) Serial.write(bytes, n); /* with nobody at the other end, USB would wait */
}

static uint32_t milliseconds(void *) {
  return millis();
}

static uint32_t ticks(void *) {
  return micros();
}

void setup() {
  Serial.begin(115200);
  port.board = "Arduino";
  port.firmware = PDMU_BOARD_VERSION;
  port.write = write_bytes;
  port.milliseconds = milliseconds;
  port.ticks = ticks;
  port.tick_hz = 1000000;
  pdmu_board_init(&board, &port);
}

void loop() {
  for (int n = Serial.available(); n > 0; n--) pdmu_board_byte(&board, (uint8_t)Serial.read());
  pdmu_board_poll(&board);
}
