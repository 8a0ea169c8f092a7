"""The parity ladder: neighbours are compared, so that blame is unambiguous."""
