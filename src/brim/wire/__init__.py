"""What every HTTP room shares: the OpenAI error object."""
