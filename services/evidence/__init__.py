"""From ranked chunks to what may be said: selection, then the extractive answerer, each sentence cited."""
