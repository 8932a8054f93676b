"""Methods and metrics by name, and where other packages add theirs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Protocol, TypeVar

from concept_conductor.errors import ConductorError


class Named(Protocol):
    """Something that is asked for by its name."""

    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


class Registry(dict[str, Entry]):
    """Name -> entry; those of installed packages are looked for where a name is not known yet.

    Args:
        kind: the class of the entries.
        noun: what messages call one of them.
        group: of the packages' entry points, each of which names an entry.
    """

    def __init__(self, kind: type[Entry], noun: str, group: str) -> None:
        super().__init__()
        self.kind, self.noun, self.group = kind, noun, group

    def register(self, entry: Entry) -> None:
        """Make an entry known.

        Raises:
            ConductorError: another one has its name.
        """
        if self.setdefault(entry.name, entry) != entry:
            raise ConductorError(f"a {self.noun} '{entry.name}' is known already; expected another name")

    def find(self, names: Sequence[str]) -> list[Entry]:
        """Return the entries of these names, each once.

        Raises:
            ConductorError: no name came, one is not known, or a package's entry point names something else.
        """
        if not names:
            raise ConductorError(f"no {self.noun} was named; expected some of {', '.join(self)}")
        if not set(names) <= set(self):
            self._load_entry_points()
        if unknown := [name for name in names if name not in self]:
            raise ConductorError(f"there is no {self.noun} '{unknown[0]}'; expected some of {', '.join(self)}")
        return [self[name] for name in dict.fromkeys(names)]

    def _load_entry_points(self) -> None:
        for point in entry_points(group=self.group):
            entry = point.load()
            if not isinstance(entry, self.kind):
                raise ConductorError(
                    f"the entry point '{point.name}' of {self.group} gives a {type(entry).__name__}; expected a "
                    f"{self.kind.__name__}"
                )
            self.register(entry)
