"""A private copy of a network: module objects of its own around the weights of the original.

The original is only read. So no mode, layout or layer of it changes while somebody attacks it: another thread may use
it meanwhile, and an interrupt leaves nothing behind. A copy takes about a millisecond and is made anew for every use,
so it always is what the network is now, its flags and hooks included.
"""

import copy
import functools
import itertools
import operator
import types
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from aalp_lib._checks import InputError
from aalp_lib.engine import graphs

Network = TypeVar("Network", bound=nn.Module)
# what these wrap computes the same without what they are there for: faster kernels, gradients shared by processes
WRAPPERS = {"OptimizedModule": "_orig_mod", "DistributedDataParallel": "module"}
PLAIN = {type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type}
CONTAINERS = {dict, OrderedDict, list, tuple, deque, set, frozenset}
DEPTH = 4  # plain objects inside one another that are looked into


def private(network: Network, *, frozen: bool = False) -> Network:
    """Copy a network into evaluation mode.

    Parameters
    ----------
    network : nn.Module
        Read only. Modules, methods and functions that it refers to, in lists, sets and plain objects too, are copied
        along and refer to the copy. Buffers are copied, unless recorded steps read them where they are.
    frozen : bool
        Whether the copy's weights, which share the memory of the network's, ask for no gradient.

    Returns
    -------
    nn.Module, of the same class
        Compiled and DistributedDataParallel modules are taken out of their wrappers.
    """
    found: Network = _Copier(frozen).of(network)
    return found


class _Copier:
    """One copy in the making: what was copied already, by the original's id, so that what is shared stays shared."""

    def __init__(self, frozen: bool) -> None:
        self.frozen = frozen
        self.made: dict[int, Any] = {}

    def of(self, value: Any, inside: int = 0) -> Any:
        """A copy of what is or holds a module or a weight; anything else as it is. `inside` counts plain objects."""
        kind = type(value)
        if kind in PLAIN or (kind in CONTAINERS and PLAIN.issuperset(map(type, value)) and not issubclass(kind, dict)):
            return value
        if id(value) in self.made:
            return self.made[id(value)]
        make = self._maker(value, kind, inside)
        if make is None:
            return value
        self.made[id(value)] = value  # for what refers to itself
        self.made[id(value)] = found = make()
        return found

    def _maker(self, value: Any, kind: type, inside: int) -> Any:
        if isinstance(value, nn.Module):
            return lambda: self._module(value)
        if isinstance(value, Tensor):
            return (lambda: self._weight(value)) if isinstance(value, nn.Parameter) else None
        if isinstance(value, list | tuple | dict | deque | set | frozenset):
            return lambda: self._container(value, inside)
        if kind is types.MethodType:
            return lambda: self._changed(value, [value.__self__], lambda own: types.MethodType(value.__func__, own))
        if kind is functools.partial:
            parts = [value.func, value.args, value.keywords]
            return lambda: self._changed(value, parts, lambda f, args, named: functools.partial(f, *args, **named))
        if kind is types.FunctionType:
            return lambda: self._function(value)
        ours = not kind.__module__.startswith("torch.") and not isinstance(value, type | types.ModuleType)
        deep = ours and inside < DEPTH and (hasattr(value, "__dict__") or _slots(kind))
        return (lambda: self._object(value, inside + 1)) if deep else None

    def _module(self, module: nn.Module) -> nn.Module:
        if isinstance(module, torch.jit.ScriptModule):
            return copy.deepcopy(module).eval()
        if type(module).__name__ in WRAPPERS:
            inner: nn.Module = self.of(getattr(module, WRAPPERS[type(module).__name__]))
            return inner
        found = self.made[id(module)] = object.__new__(type(module))
        for buffer in module._buffers.values():
            if buffer is not None and not graphs.usable(buffer.device):
                self.made[id(buffer)] = buffer.detach().clone()
        state = vars(found)
        for name, value in vars(module).items():
            holds = type(value) in CONTAINERS
            new = value if holds and not value else self.of(value)
            state[name] = _again(value) if holds and new is value else new  # the copy may write into it
        state["training"] = False
        state.pop("_compiled_call_impl", None)
        return found

    def _weight(self, weight: nn.Parameter) -> nn.Parameter:
        if nn.parameter.is_lazy(weight):
            raise InputError("the model has lazy layers without a size yet: call it once on a batch of images")
        if not self.frozen:
            return weight
        values = weight.detach()
        return nn.Parameter(values.clone() if values.is_inference() else values, requires_grad=False)

    def _changed(self, value: Any, parts: list[Any], build: Callable[..., Any], inside: int = 0) -> Any:
        """`value` built again from copies of its parts, or itself where no part is another one."""
        copies = [self.of(part, inside) for part in parts]
        return value if all(map(operator.is_, copies, parts)) else build(*copies)

    def _container(self, value: Any, inside: int) -> Any:
        def build(*items: Any) -> Any:
            found: Any
            if isinstance(value, dict | list):
                found = copy.copy(value)
                for place, item in zip(value if isinstance(value, dict) else itertools.count(), items, strict=False):
                    found[place] = item
                return found
            if isinstance(value, deque | set):
                found = copy.copy(value)  # with its longest length
                found.clear()
                (found.extend if isinstance(found, deque) else found.update)(items)
                return found
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

        return self._changed(value, list(value.values() if isinstance(value, dict) else value), build, inside)

    def _function(self, function: types.FunctionType) -> Any:
        cells = function.__closure__ or ()
        try:
            contents = [cell.cell_contents for cell in cells]
        except ValueError:  # one that is empty still
            return function

        def build(defaults: Any, *contents: Any) -> Any:
            code, closure = function.__code__, tuple(types.CellType(content) for content in contents)
            found = types.FunctionType(code, function.__globals__, function.__name__, defaults, closure)
            found.__kwdefaults__ = function.__kwdefaults__
            return found

        return self._changed(function, [function.__defaults__, *contents], build, inside=DEPTH)

    def _object(self, value: Any, inside: int) -> Any:
        own = getattr(value, "__dict__", {})
        slots = [slot for slot in _slots(type(value)) if _filled(slot, value)]

        def build(*attributes: Any) -> Any:
            try:
                found = object.__new__(type(value))
            except TypeError:  # of a built-in class
                try:
                    found = copy.copy(value)
                except Exception:
                    return value
            if own:
                vars(found).update(zip(own, attributes, strict=False))
            for slot, attribute in zip(slots, attributes[len(own) :], strict=True):
                slot.__set__(found, attribute)
            return found

        return self._changed(value, [*own.values(), *(slot.__get__(value) for slot in slots)], build, inside)


def _again(held: Any) -> Any:
    """A container of the same."""
    kind = type(held)
    return held.copy() if kind is deque else kind(held)


def _slots(kind: type) -> list[Any]:
    """Descriptors of the `__slots__` of a class and those it derives from."""
    with_slots = [vars(one) for one in kind.__mro__ if "__slots__" in vars(one)]
    return [slot for own in with_slots for slot in own.values() if isinstance(slot, types.MemberDescriptorType)]


def _filled(slot: Any, value: Any) -> bool:
    try:
        slot.__get__(value)
    except AttributeError:
        return False
    return True
