"""Engines run the plans that core makes. Open `base` for the protocol, `loop` for the real clock."""
