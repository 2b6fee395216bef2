"""A scheduler under virtual time, and the truths that are hidden from it."""
