/* Prints a line of JSON for each sound that the board's PDM microphone hears. Boards: see the README. */
#include <Arduino.h>
#include <PDM.h>
#include <pdmu_listener.h>

static const uint32_t RING_SAMPLES = 4096; /* a quarter of a second, a power of two */
static int16_t ring[RING_SAMPLES];
static volatile uint32_t written = 0, taken = 0; /* samples; the interrupt writes, loop() takes */
static volatile uint32_t dropped = 0;
static pdmu_listener listener;

/* In the interrupt: nothing but copying. */
static void receive() {
  static int16_t block[256];
  int left = PDM.available();
  while (left > 0) {
    const int wanted = left < (int)sizeof block ? left : (int)sizeof block;
    const int got = PDM.read(block, wanted);
    if (got <= 0) return;
    left -= got;
    for (int i = 0; i < got / 2; i++) {
      if (written - taken == RING_SAMPLES) {
        dropped = dropped + 1;
      } else {
        ring[written % RING_SAMPLES] = block[i];
        written = written + 1;
      }
    }
  }
}

static void print_event(const pdmu_event *event) {
  char line[PDMU_EVENT_LINE_BYTES];
  pdmu_event_line(event, line);
  Serial.println(line);
}

void setup() {
  Serial.begin(115200);
  pdmu_listener_init(&listener);
  PDM.onReceive(receive);
  if (!PDM.begin(1, PDMU_SAMPLE_RATE_HZ)) {
    for (;;) {
      Serial.println("error: the microphone does not start at 16 kHz; does this board have a PDM microphone?");
      delay(2000);
    }
  }
}

void loop() {
  static uint32_t reported = 0;
  const uint32_t from = taken % RING_SAMPLES, ready = written - taken;
  const uint32_t n = ready < RING_SAMPLES - from ? ready : RING_SAMPLES - from;
  pdmu_listen(&listener, ring + from, (int32_t)n, print_event);
  taken = taken + n;
  if (dropped != reported) {
    reported = dropped;
    Serial.print("warning: samples lost so far, because the board is too slow or the serial line is full: ");
    Serial.println(reported);
  }
}
