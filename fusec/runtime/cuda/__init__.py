"""Running plans on an NVIDIA GPU through the CUDA driver; needs no compiler."""
