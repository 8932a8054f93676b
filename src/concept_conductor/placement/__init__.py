"""Object placement: replace or add objects in a given image; all outside of a mask stays the image's own."""

from concept_conductor._deprecated import names

__getattr__ = names(
    __name__,
    {
        "Add": "placement.objects.Add",
        "Placement": "placement.placement.Placement",
        "Replace": "placement.objects.Replace",
    },
)
