"""Routes by family: health, native, documents, jobs, openai, cohere, admin."""
