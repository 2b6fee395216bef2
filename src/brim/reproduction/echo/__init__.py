"""Echo's experiments (arXiv 2504.03651), run again in virtual time."""
