"""Routes by family: health, native, documents, jobs, openai, admin."""
