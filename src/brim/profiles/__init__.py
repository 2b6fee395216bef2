"""Step-time profiles as package data, and their one loader."""
