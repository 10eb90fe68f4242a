"""Trains Fathom's own cross-encoders: hard negatives from the first stage, listwise loss, distillation."""
