"""Local: models in this machine: llama.cpp's process, encoders, and the heads shipped with them."""
