"""An activation of someone else's: the sine, with a frequency for each unit. Its module is in sine_module.py."""

from tiny_transformers.settings.activations import ACTIVATIONS, Activation

ACTIVATIONS.add(Activation("sine", "a sine", "sine_module:Sine", start=0.5))
