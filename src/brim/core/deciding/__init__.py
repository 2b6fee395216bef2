"""The phases of a decision, each a module; `decide` lists them and puts them together."""
