"""One file per decision. A rule is a small class that returns a key or a number; `named` composes them."""
