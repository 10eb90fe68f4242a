"""Routes by family: native, openai, cohere, admin."""
