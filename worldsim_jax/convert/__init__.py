"""Other people's weights, in and out, without PyTorch."""
