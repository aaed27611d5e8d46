"""Data sets for stages: converted from other shapes, or written by a language model."""
