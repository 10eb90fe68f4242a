"""HTTP: bodies, auth, limits and fairness (pure), the routes by family, and the Serve deployment."""
