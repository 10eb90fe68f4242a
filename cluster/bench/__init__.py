"""Measures a running platform from outside, over HTTP: load drivers (load) and what they print (search)."""
