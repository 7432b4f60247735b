from . import (
    copies as copies,
    distributed as distributed,
    folding as folding,
    graphs as graphs,
    network as network,
    precision as precision,
)
from .copies import private as private
from .graphs import stepper as stepper, wanted as wanted
from .network import (
    PART as PART,
    Forward as Forward,
    Prepared as Prepared,
    device_of as device_of,
    laid_out as laid_out,
    parts as parts,
    prepared as prepared,
    usual as usual,
    warn_of_company as warn_of_company,
)
from .precision import misread as misread, wrong as wrong
