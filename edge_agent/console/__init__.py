"""`pdmu-console`: a board at the end of a serial line, for people and for the broker."""
