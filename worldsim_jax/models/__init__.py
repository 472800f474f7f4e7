"""Networks: the transformer, the tiny video VAE, text encoders."""
