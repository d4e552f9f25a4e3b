"""Parts that recipes name: an optimiser, a loss, a schedule. Each is one entry, a builder under its name.

Another package adds its own by entry points of the group "ms_vit.parts", which name modules that register theirs when
they are imported; docs/architecture.md shows one.
"""

import difflib
import functools
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ms_vit.errors import UsageError

T = TypeVar("T")
GROUP = "ms_vit.parts"


@functools.cache
def load_parts() -> None:
    """Imports the modules of other packages that add parts, once. Raises UsageError where one can't be imported."""
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:      # a user's module may raise anything
            package = point.dist.name if point.dist else point.value
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f'the parts of the package "{package}" can\'t be imported ({point.value}: {why}); mend or '
                             "uninstall it") from error


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

    def find(self, name: str) -> T | None:
        """None where there is none, in other packages neither; they are imported for what isn't our own."""
        if name not in self.entries:
            load_parts()
        return self.entries.get(name)

    def __getitem__(self, name: str) -> T:
        """Raises UsageError, with the name that comes nearest, where there is none."""
        found = self.find(name)
        if found is None:
            near = difflib.get_close_matches(name, self.entries, n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(self.entries)}"
            raise UsageError(f'no {self.what} "{name}"; {hint}')
        return found
