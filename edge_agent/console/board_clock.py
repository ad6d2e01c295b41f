"""When a board's events happened, by its own sample clock."""

from __future__ import annotations

WRAP = 1 << 32  # boards count samples to here
EARLY_SAMPLES = 1 << 20  # so far the reckoning may lag behind an event: 65 s at 16 kHz


class BoardClock:
    """Tells how old an event is from how far the board's sample count has come.

    The count comes with every HEALTH. A board with a microphone counts on meanwhile; one that is fed stands wherever its feeder left it,
    and an event is as old as what came after it. Ages up to 2^32 samples less `EARLY_SAMPLES` are told apart: 74 hours at 16 kHz.

    Parameters
    ----------
    rate_hz : int
    live : bool
        The board has a microphone.
    """

    def __init__(self, rate_hz: int, live: bool) -> None:
        self._rate_hz, self._live = rate_hz, live
        self._samples, self._at_s = -1, 0.0

    @property
    def set(self) -> bool:
        """Whether a count has been heard."""
        return self._samples >= 0

    def observe(self, samples: int, now_s: float) -> int:
        """Note the board's count at monotonic time `now_s`; return how many samples came since the last time it was noted."""
        advance = (samples - self._samples) % WRAP if self.set else 0
        if advance > samples:  # a RESET began anew
            advance = samples
        self._samples, self._at_s = samples, now_s
        return advance

    def age_s(self, sample: int, now_s: float) -> float:
        """Return how long before `now_s` the sample of this number was heard, seconds; at least 0."""
        counted = self._samples + (round((now_s - self._at_s) * self._rate_hz) if self._live else 0)
        behind = (counted - sample + EARLY_SAMPLES) % WRAP - EARLY_SAMPLES
        return max(0, behind) / self._rate_hz
