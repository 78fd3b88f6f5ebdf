"""busistore: every breast-ultrasound image is encoded once per model; every later question reads the store."""

__version__ = "0.3.0"
