"""A cursor over a recipe: a place in it, what opens the files named there, and errors that say where it is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from concept_conductor.grounding.choose import default_grounder
from concept_conductor.grounding.grounded_sam import GROUNDING_DINO, SAM, GroundedSam
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.io.documents import FieldPath
from concept_conductor.io.images import load_image, load_layer, load_mask
from concept_conductor.recipes.files import Located, in_hub_cache, locate_model, not_fetched
from concept_conductor.recipes.schema.recipe import Recipe, RecipeError


@dataclass(frozen=True)
class Section:
    """A place in a recipe.

    Attributes:
        recipe: the whole of it.
        located: where the file named at each place of the recipe lies.
        place: of this section; none for the recipe itself.
        fetch: names of what may be asked of the hub; None where everything may that the recipe names.
    """

    recipe: Recipe
    located: Located
    place: FieldPath = ()
    fetch: Collection[str] | None = None

    def __getitem__(self, part: str | int) -> Section:
        return replace(self, place=(*self.place, part))

    def image(self, field: str | int) -> Image.Image:
        """Open the image named in a field, as RGB.

        Raises:
            RecipeError: it cannot be read.
        """
        return self._opened(load_image, field)

    def mask(self, field: str | int) -> Image.Image:
        """Open the mask named in a field, as L; see :meth:`image`."""
        return self._opened(load_mask, field)

    def layer(self, field: str | int) -> Image.Image:
        """Open the image named in a field with its transparency; see :meth:`image`."""
        return self._opened(load_layer, field)

    def _opened(self, load: Callable[[str | Path], Image.Image], field: str | int) -> Image.Image:
        with self[field].blaming():
            return load(self.located[(*self.place, field)])

    def error(self, message: str) -> RecipeError:
        """Return an error that says ``message`` with the file, line and field of this place."""
        return self.recipe.error(self.place, message)

    def blaming(self) -> AbstractContextManager[None]:
        """Name this place in the block's errors, unless they name one."""
        return self.recipe.blaming(*self.place)

    def may_fetch(self, *names: str) -> bool:
        """Tell whether the hub may be asked for any of these."""
        return self.fetch is None or any(name in self.fetch for name in names)

    def model(self) -> Path | str:
        """Return where the recipe's own model lies, or its hub id.

        Raises:
            RecipeError: there is none.
        """
        own = self.located.get(("model",))
        if own is not None:
            return own
        with self.recipe.blaming("model"):
            return locate_model(self.recipe.model, self.recipe.folder)

    def grounder(self, threshold: float | None = None) -> Grounder:
        """Return what finds objects in images: the judge for models that have one, else Grounding DINO and SAM.

        Args:
            threshold: least score of an object, 0..1; None for the grounder's own.

        Raises:
            RecipeError: it is not on this machine, and the hub may not be asked for it.
        """
        layout_model = self.located.get(("layout", "generated", "model"))
        model = self.model() if layout_model is None else layout_model
        local = not self.may_fetch(GROUNDING_DINO.name, SAM.name)
        grounder = default_grounder(model, threshold=threshold, local_files_only=local)
        if local and isinstance(grounder, GroundedSam):
            needed = {one.name: in_hub_cache(one.name, "config.json", one.revision) for one in (GROUNDING_DINO, SAM)}
            if lacking := [name for name, file in needed.items() if file is None]:
                raise self.error(not_fetched(f"what finds objects in images ({', '.join(lacking)})", *lacking))
        return grounder
