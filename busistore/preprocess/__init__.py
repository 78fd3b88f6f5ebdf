"""Preprocessing: from an image as scanned to the square grey picture that every encoder is given."""
