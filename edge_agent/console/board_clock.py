"""When a board's events happened, by its own sample clock."""

from __future__ import annotations

WRAP = 1 << 32  # boards count samples to here
EARLY_SAMPLES = 1 << 20  # so far the reckoning may lag behind an event: 65 s at 16 kHz
SLACK_S = 0.5  # a count that came so late was only long on its way


class BoardClock:
    """Tells how old an event is from how far the board's sample count has come.

    The count comes with every HEALTH. A board with a microphone counts on meanwhile; one that is fed stands wherever its feeder left it,
    and an event is as old as what came after it. Ages up to 2^32 samples less `EARLY_SAMPLES` are told apart: 74 hours at 16 kHz.

    Parameters
    ----------
    rate_hz : int
    live : bool
        The samples come by a clock of the board's own, not from whoever feeds it.
    """

    def __init__(self, rate_hz: int, live: bool) -> None:
        self._rate_hz, self._live = rate_hz, live
        self._samples, self._at_s = -1, 0.0  # the last count that was not late, and when it came
        self._noted, self._noted_s, self._sure = -1, 0.0, False

    @property
    def set(self) -> bool:
        """Whether ages can be told."""
        return self._sure

    def doubt(self) -> None:
        """Tell no more ages until the count is heard again: the line was lost, and nobody knows what happened meanwhile."""
        self._sure = False

    def observe(self, samples: int, now_s: float) -> int:
        """Note the board's count at monotonic time `now_s`; return how many samples came since the last time it was noted."""
        advance = 0
        if self._noted >= 0:
            goes_round = self._noted + (now_s - self._noted_s) * self._rate_hz + EARLY_SAMPLES >= WRAP
            advance = (samples - self._noted) % WRAP if samples >= self._noted or goes_round else samples  # or a RESET began anew
        late_s = ((self._counted(now_s) - samples + EARLY_SAMPLES) % WRAP - EARLY_SAMPLES) / self._rate_hz
        if self._noted < 0 or not 0 <= late_s <= SLACK_S:
            self._samples, self._at_s = samples, now_s
        self._noted, self._noted_s, self._sure = samples, now_s, True
        return advance

    def _counted(self, now_s: float) -> int:
        return self._samples + (round((now_s - self._at_s) * self._rate_hz) if self._live else 0)

    def age_s(self, sample: int, now_s: float) -> float:
        """Return how long before `now_s` the sample of this number was heard, seconds; at least 0."""
        behind = (self._counted(now_s) - sample + EARLY_SAMPLES) % WRAP - EARLY_SAMPLES
        if behind < 0:  # the count was late after all
            self._samples, self._at_s = sample, now_s
        return max(0, behind) / self._rate_hz
