"""Data sets: manifests, splits, cached mel energies, augmentation. No torch here."""
