"""The demonstration: recordings, through the shipped models, to an MQTT subscriber."""
