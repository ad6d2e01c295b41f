"""The streaming agent: audio in, detections out over MQTT, nothing lost in between.

Imports numpy and the numpy tier of :mod:`pdmu` alone; audio, TFLite, MQTT and plotting libraries are loaded by the module that needs
them, when it needs them.
"""
