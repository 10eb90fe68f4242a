"""Formats: bytes of one file → `Parsed` text. Pure, each file knows one family; read `detect` first, then any other.

Nothing here imports more than the standard library at the top: parsers load where they are used, inside the child.
"""
