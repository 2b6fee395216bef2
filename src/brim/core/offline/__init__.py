"""Offline requests that wait, by the prefixes they share. `pool` is the only door."""
