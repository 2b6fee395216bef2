"""What the scheduler expects: estimates made from what it was told, in plain Python."""
