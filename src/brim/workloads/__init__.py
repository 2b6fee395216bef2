"""Request traces in, arrivals and lengths out. Open `trace` for the value, `formats` for reading files."""
