from . import distributed as distributed, folding as folding, graphs as graphs, precision as precision
