"""How attacks and training are made fast and spread: folded networks, CUDA graphs, precision, several processes."""
