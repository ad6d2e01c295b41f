/* Declarations alone of what the sketches use of Arduino's core: enough to compile, nothing to run. */
#pragma once
#include <stddef.h>
#include <stdint.h>

class HardwareSerial {
public:
  void begin(unsigned long baud);
  operator bool();
  int available();
  int read();
  size_t write(const uint8_t *bytes, size_t n);
  size_t println(const char *text);
};
extern HardwareSerial Serial;

void delay(unsigned long ms);
unsigned long millis(void);
unsigned long micros(void);
void setup(void);
void loop(void);
