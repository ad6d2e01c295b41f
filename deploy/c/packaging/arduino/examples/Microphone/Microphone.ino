/* Hears the board's PDM microphone and tells a host on the USB cable, pdmu-console, what it detects. Boards: see the README. */
#include <Arduino.h>
#include <PDM.h>
#include <pdmu_microphone.h>

static pdmu_microphone microphone;
static pdmu_board_port port;
static pdmu_board board;

/* In the interrupt: nothing but copying. */
static void receive() {
  static int16_t block[256];
  int left = PDM.available();
  while (left > 0) {
    const int got = PDM.read(block, left < (int)sizeof block ? left : (int)sizeof block);
    if (got <= 0) return;
    left -= got;
    pdmu_microphone_put(&microphone, block, got / 2);
  }
}

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
  pdmu_microphone_lend(&microphone, &port);
  PDM.onReceive(receive);
  while (!PDM.begin(1, PDMU_SAMPLE_RATE_HZ)) {
    Serial.println("error: the microphone does not start at 16 kHz; does this board have a PDM microphone?");
    delay(2000);
  }
  pdmu_board_init(&board, &port);
}

void loop() {
  for (int n = Serial.available(); n > 0; n--) pdmu_board_byte(&board, (uint8_t)Serial.read());
  pdmu_board_poll(&board);
}
