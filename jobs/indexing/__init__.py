"""THE INDEX LINE: source → parse → chunk → embed → write → commit → publish; `pipeline` is the chain."""
