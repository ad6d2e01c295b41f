"""Spiking neurons: one definition of the leaky integrate-and-fire step, from which every other form is derived."""
