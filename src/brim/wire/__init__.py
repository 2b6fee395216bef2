"""What every HTTP room shares: the OpenAI error object, and how much JSON a request may hold."""
