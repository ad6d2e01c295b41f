"""From trained networks to devices: quantisation, TFLite, C, conformance."""
