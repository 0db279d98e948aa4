"""What real llama.cpp clients and bare workers said to each other, and how it was written down. See README.md."""
