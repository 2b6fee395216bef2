"""Brim: interactive and batch LLM traffic on the same GPUs. Nothing is imported here; open a room."""

__version__ = "0.1.0"
