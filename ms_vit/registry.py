"""Parts that recipes name: an optimiser, a loss, a schedule. Each is one entry, a builder under its name."""

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ms_vit.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Builders by name. `what` is what they build, for whoever asks for one that isn't there: "optimizer".

        @optimizers.register("lion")
        def lion(params, learning_rates, settings): ...
    """

    def __init__(self, what: str):
        self.what = what
        self.entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        def add(builder: T) -> T:
            self.entries[name] = builder
            return builder
        return add

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __getitem__(self, name: str) -> T:
        """Raises UsageError, with the name that comes nearest, where there is none."""
        if name not in self.entries:
            near = difflib.get_close_matches(name, self.entries, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(self.entries)}"
            raise UsageError(f'no {self.what} "{name}"; {hint}')
        return self.entries[name]
