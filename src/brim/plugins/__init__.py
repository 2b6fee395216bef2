"""Brim's rules inside hosts that own their loop."""
