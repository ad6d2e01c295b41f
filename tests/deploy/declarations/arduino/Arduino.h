/* Declarations alone of what the sketches use of Arduino's core: enough to compile, nothing to run. */
#pragma once
#include <stddef.h>
#include <stdint.h>

class HardwareSerial {
public:
  void begin(unsigned long baud);
  size_t print(const char *text);
  size_t print(unsigned long value);
  size_t println(const char *text);
  size_t println(long value);
  size_t println(unsigned long value);
  size_t println(int value);
  size_t println(unsigned int value);
};
extern HardwareSerial Serial;

void delay(unsigned long ms);
unsigned long millis(void);
void setup(void);
void loop(void);
