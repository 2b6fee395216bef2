"""Brim inside other engines."""
