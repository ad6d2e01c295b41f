"""When a board's events happened, by its own sample clock."""

from __future__ import annotations

import math

WRAP = 1 << 32  # boards count samples to here
EARLY_SAMPLES = 1 << 20  # so far the reckoning may lag behind an event: 65 s at 16 kHz
SLACK_S = 0.5  # a count that came so late was only long on its way
LEAD_S = 2.0  # an event no further ahead tells that the count was; one beyond is of another stream
FASTER = 1.001  # than its nominal rate may a microphone be, by the board's clock


class BoardClock:
    """Tells how old an event is from how far the board's sample count has come.

    The count comes with every HEALTH; the board counts on meanwhile. Ages up to 2^32 samples less `EARLY_SAMPLES` are told apart: 74 hours
    at 16 kHz. An event that the present stream cannot hold is of one before a RESET: nothing tells how old it is.

    Parameters
    ----------
    rate_hz : int
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._samples, self._at_s = -1, 0.0  # the last count that was not late, and when it came
        self._started_s = 0.0  # monotonic time of the board's start, or a multiple of 2^32 ms later
        self._noted, self._noted_s, self._sure = -1, 0.0, False

    @property
    def set(self) -> bool:
        """Whether ages can be told."""
        return self._sure

    def doubt(self) -> None:
        """Tell no more ages until the count is heard again: the line was lost, and nobody knows what happened meanwhile."""
        self._sure = False

    def observe(self, samples: int, uptime_ms: int, now_s: float) -> int:
        """Note the board's count and uptime at monotonic time `now_s`; return how many samples came since the last time they were noted."""
        advance = 0
        if self._noted >= 0:
            goes_round = self._noted + (now_s - self._noted_s) * self._rate_hz + EARLY_SAMPLES >= WRAP
            advance = (samples - self._noted) % WRAP if samples >= self._noted or goes_round else samples  # or a RESET began anew
        late_s = ((self._counted(now_s) - samples + EARLY_SAMPLES) % WRAP - EARLY_SAMPLES) / self._rate_hz
        if self._noted < 0 or not 0 <= late_s <= SLACK_S:
            self._samples, self._at_s = samples, now_s
        self._noted, self._noted_s, self._sure = samples, now_s, True
        self._started_s = now_s - uptime_ms / 1000
        return advance

    def _counted(self, now_s: float) -> int:
        return self._samples + round((now_s - self._at_s) * self._rate_hz)

    def _most(self, sample: int, now_s: float) -> float:
        """Return how many samples a stream with this one can have by now: those of the board's whole run."""
        up_s = now_s - self._started_s
        up_s += WRAP / 1000 * max(0, math.ceil((sample / self._rate_hz - up_s) * 1000 / WRAP))  # the uptime has gone round so often
        return FASTER * up_s * self._rate_hz + EARLY_SAMPLES

    def age_s(self, sample: int, now_s: float) -> float:
        """Return how long before `now_s` the sample of this number was heard, seconds; 0 where it is of an earlier stream."""
        behind = (self._counted(now_s) - sample + EARLY_SAMPLES) % WRAP - EARLY_SAMPLES
        if -LEAD_S * self._rate_hz <= behind < 0:  # the count was late after all
            self._samples, self._at_s = sample, now_s
        return behind / self._rate_hz if 0 < behind <= self._most(sample, now_s) - sample else 0.0
