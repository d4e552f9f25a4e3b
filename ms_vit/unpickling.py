"""A machine for pickles of strangers. A pickle is a program; this one runs few instructions and knows few names.

It makes dictionaries, lists, tuples, text and numbers, and whatever a subclass's stand-ins make; anything else that a
pickle asks for is refused before it exists. It is the machine in Python: the one in C lets a few bytes of pickle claim
gigabytes for its memo.
"""

import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from ms_vit import limits

INSTRUCTIONS = [
    pickle.APPEND, pickle.APPENDS, pickle.BINFLOAT, pickle.BINGET, pickle.BININT, pickle.BININT1,
    pickle.BININT2, pickle.BINPERSID, pickle.BINPUT, pickle.BINSTRING, pickle.BINUNICODE, pickle.EMPTY_LIST,
    pickle.EMPTY_TUPLE, pickle.GLOBAL, pickle.LONG1, pickle.LONG_BINGET, pickle.LONG_BINPUT, pickle.MARK,
    pickle.NEWFALSE, pickle.NEWOBJ, pickle.NEWTRUE, pickle.NONE, pickle.PROTO, pickle.REDUCE, pickle.SETITEM,
    pickle.SETITEMS, pickle.SHORT_BINSTRING, pickle.STOP, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2,
    pickle.TUPLE3]




class Program(io.BytesIO):
    """A pickle, which is no endless one: each instruction may make an object, and objects are larger than it is."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > limits.MAX_PICKLE_READS:
            raise Refused("too many objects")
        return super().read(size)


class Refused(Exception):
    """What a pickle asked for and doesn't get, in words."""


class Mapping(dict[Any, Any]):
    """Stands in for dict and collections.OrderedDict; `pairs` are how Python 2 pickled the latter."""

    __slots__ = ()

    def __init__(self, pairs: Iterable[tuple[Any, Any]] = ()):
        for key, value in pairs:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        # The hash of a tuple of a tuple of a tuple ... exhausts the stack of the process, which ends it.
        if not isinstance(key, (str, bytes, int, float, type(None))):
            raise Refused(f"a {type(key).__name__} for a key")
        super().__setitem__(key, value)


class Unpickler(pickle._Unpickler):
    """Subclasses say in `known` what stands in for the names that their files use."""

    known: ClassVar[dict[tuple[str, str], Any]] = {}
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            raise Refused(f"{module}.{name}")
        return self.known[module, name]

    def set_state(self, target: Any, state: Any) -> None:
        """What an object's pickled state does to its stand-in: nothing, so that no file can change a stand-in."""

    def push_mapping(self) -> None:
        self.stack.append(Mapping())

    def build(self) -> None:
        state = self.stack.pop()
        self.set_state(self.stack[-1], state)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in INSTRUCTIONS},
        pickle.EMPTY_DICT[0]: push_mapping, pickle.BUILD[0]: build}
