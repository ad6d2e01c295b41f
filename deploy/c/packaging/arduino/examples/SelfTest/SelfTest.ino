/* Replays a signal of one second through the model and compares with what it must answer, to the last bit. Needs no microphone, and 32 kB. */
#include <Arduino.h>
#include <pdmu_listener.h>

extern "C" {
#include <golden.h>
}

static pdmu_listener listener;
static int16_t pcm[PDMU_GOLDEN_SAMPLES];

void setup() {
  Serial.begin(115200);
  pdmu_golden_pcm(pcm);
}

void loop() {
  const uint32_t began = millis();
  const int32_t different = pdmu_listener_self_test(&listener, pcm);
  const uint32_t took = millis() - began;
  if (different < 0) {
    Serial.print("equal to the law; milliseconds for a second of audio: ");
    Serial.println(took);
  } else {
    Serial.print("DIFFERENT from the law, first at step ");
    Serial.println(different);
  }
  delay(2000);
}
