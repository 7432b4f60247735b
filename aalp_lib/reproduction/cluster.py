"""A Dask cluster as the executor of a grid's jobs."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor

from aalp_lib._checks import InputError


@contextlib.contextmanager
def executor(scheduler: str | None) -> Iterator[Executor | None]:
    """That of the cluster whose scheduler has this address; its workers must see the same folders. None for None.

    Raises
    ------
    InputError
        Without the extra [cluster].
    OSError
        If no scheduler answers there.
    """
    if scheduler is None:
        yield None
        return
    try:
        from distributed import Client
        from distributed.comm import resolve_address
    except ImportError:
        raise InputError("--scheduler needs Dask: pip install 'aalp_lib[cluster]'") from None
    try:
        resolve_address(scheduler)  # of an address that can be none, a client hangs when it is given up
        client = Client(scheduler, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at {scheduler} ({error})") from error
    with client:
        yield client.get_executor(pure=False)
