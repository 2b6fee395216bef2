"""The OpenAI-compatible HTTP server: one application over one engine loop."""
