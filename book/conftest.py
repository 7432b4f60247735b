"""nbval's kernels speak over socket files: of TCP ports, two workers can find the same one free at the same time.

A kernel that loses its port dies, or, where it was the one for output, never answers ("Kernel didn't respond in 60
seconds"). nbval hands no settings on to the kernel manager, so the name it uses is bound to one that has them.
"""

import tempfile
from itertools import count

import nbval.kernel
import pytest
from jupyter_client.manager import KernelManager

_folder = tempfile.TemporaryDirectory(prefix="nbval-")
_number = count()


def _manager(**settings) -> KernelManager:
    return KernelManager(transport="ipc", connection_file=f"{_folder.name}/{next(_number)}.json", **settings)


pytest.MonkeyPatch().setattr(nbval.kernel, "KernelManager", _manager)
