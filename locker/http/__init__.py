"""The control plane: everything but resolving and the streams of documents."""
