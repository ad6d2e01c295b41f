"""PDMU: recurrent bioacoustics models that train in parallel and run one step at a time.

This level imports numpy and the standard library alone; torch lives in :mod:`pdmu.nn` and :mod:`pdmu.data` loads audio libraries.
"""

__version__ = "0.1.0"
