"""Text to unit vectors: the encoder (torch | openvino), and the Serve deployment around it."""
