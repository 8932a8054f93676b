"""Text grounding: image + words -> segments, by Grounding DINO and SAM.

Grounded-SAM (Ren et al., 2024): Grounding DINO finds boxes for words, SAM makes a mask in each box. The paper
measures with it (Algorithm 2, omission, redundancy), and a layout's masks can come from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import LOWER, Segment, checked_threshold
from concept_conductor.io.pretrained import Checkpoint, best_device, pillow_processor, precision

GROUNDING_DINO = Checkpoint("IDEA-Research/grounding-dino-tiny", "a2bb814dd30d776dcf7e30523b00659f4f141c71")
SAM = Checkpoint("facebook/sam-vit-huge", "87aecf0df4ce6b30cd7de76e87673c49644bdf67")

PAIRS_PER_FORWARD = 4
"""Pairs of image and words that Grounding DINO looks at in one forward."""
IMAGES_PER_FORWARD = 4
"""Images that SAM encodes in one forward."""


#: The index of an image, and a caption to look for in it.
Pair = tuple[int, str]
#: Boxes ``(n, 4)`` in pixels, surest first, and their scores ``(n,)``.
Boxes = tuple[torch.Tensor, torch.Tensor]


class GroundedSam:
    """Grounding DINO and SAM through transformers; loaded when first used, and once.

    Each of the words is looked for on its own, so that no word takes another's box. Preprocessing is Pillow's,
    with torchvision or without.

    Args:
        device: None for the GPU where there is one; fp16 there.
        detector: Grounding DINO.
        segmenter: SAM.
        box_threshold: least score of a box, 0..1.
        text_threshold: least score of a token for it to belong to a box's phrase, 0..1; a box without phrase goes.
        overlap: of two boxes of one word with a larger IoU than this the surer stays.
        local_files_only: never ask the hub.
    """

    def __init__(
        self,
        device: str | torch.device | None = None,
        detector: Checkpoint = GROUNDING_DINO,
        segmenter: Checkpoint = SAM,
        *,
        box_threshold: float = 0.30,
        text_threshold: float = 0.25,
        overlap: float = 0.5,
        local_files_only: bool = False,
    ) -> None:
        for name, value in (("box", box_threshold), ("text", text_threshold), ("overlap", overlap)):
            checked_threshold(name, value)
        self.device = best_device(device)
        self.detector, self.segmenter = detector, segmenter
        self.box_threshold, self.text_threshold, self.overlap = box_threshold, text_threshold, overlap
        self.local_files_only = local_files_only

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        """See :meth:`Grounder.find`; words in plain English ("a dog"), in any case, with or without a full stop."""
        return self.find_all([image], [words])[0]

    def find_all(self, images: Sequence[Image.Image], words: Sequence[Sequence[str]]) -> list[list[list[Segment]]]:
        """See :meth:`Grounder.find_all`; images of one size share forwards of the detector."""
        prepared = [image.convert("RGB") for image in images]
        captions = [[caption(text) for text in own] for own in words]
        pairs = [(index, text) for index, own in enumerate(captions) for text in dict.fromkeys(own)]
        detected = self._boxes(prepared, pairs)
        boxes = [
            torch.cat([torch.zeros(0, 4), *(detected[pair][0] for pair in pairs if pair[0] == index)])
            for index in range(len(prepared))
        ]
        masks = [iter(own) for own in self._masks(prepared, boxes)]
        found = {
            pair: [
                (score, (x0, y0, x1, y1), mask)
                for (x0, y0, x1, y1), score, mask in zip(*(part.tolist() for part in detected[pair]), masks[pair[0]])
                if mask.any()
            ]
            for pair in pairs
        }
        return [
            [[Segment(given, *parts) for parts in found[index, text]] for given, text in zip(own, captions[index])]
            for index, own in enumerate(words)
        ]

    @torch.inference_mode()
    def under(self, image: Image.Image, points: Sequence[tuple[float, float]]) -> list[NDArray[np.bool_]]:
        """See :meth:`Grounder.under`; of SAM's three readings (a subpart, a part, the whole) the surest."""
        if not points:
            return []
        rgb = image.convert("RGB")
        given = [[[list(point)] for point in points]]
        masks, ious = self._segmented(rgb, self._encoded([rgb])[0], True, input_points=given)
        return [mask[int(best)].numpy() for mask, best in zip(masks, ious.argmax(1))]

    def instead(self, image: Image.Image, words: str) -> str:
        """See :meth:`Explaining.instead`."""
        text = caption(words)
        lower = copy(self)  # shares the models, which are loaded by now
        lower.box_threshold, lower.text_threshold = 0.0, 0.0
        ((_, scores),) = lower._boxes([image.convert("RGB")], [(0, text)]).values()
        if not len(scores):
            return "there is no candidate for it"
        best = f"the best candidate scores {float(scores[0]):.2f}, where the threshold is {self.box_threshold:g}"
        return f"{best}: {LOWER}" if scores[0] < self.box_threshold else best

    def identity(self) -> str:
        """Return the names of both models and the thresholds."""
        thresholds = f"{self.box_threshold} {self.text_threshold} {self.overlap}"
        return f"{self.detector.identity()} {self.segmenter.identity()} {thresholds}"

    @torch.inference_mode()
    def _boxes(self, images: Sequence[Image.Image], pairs: Sequence[Pair]) -> dict[Pair, Boxes]:
        """For each pair of image and text its boxes in pixels inside the image, surest first, and their scores."""
        found: dict[Pair, Boxes] = {}
        for size in dict.fromkeys(images[index].size for index, _ in pairs):
            alike = [pair for pair in pairs if images[pair[0]].size == size]
            for start in range(0, len(alike), PAIRS_PER_FORWARD):
                chunk = alike[start : start + PAIRS_PER_FORWARD]
                found |= zip(chunk, self._detect(images, chunk))
        return found

    def _detect(self, images: Sequence[Image.Image], pairs: Sequence[Pair]) -> Iterator[Boxes]:
        processor, model = self._detector
        shown = list(dict.fromkeys(index for index, _ in pairs))
        rows = [shown.index(index) for index, _ in pairs]
        size = images[shown[0]].size
        pixels = processor.image_processor(images=[images[index] for index in shown], return_tensors="pt")
        tokens = processor.tokenizer([text for _, text in pairs], padding=True, return_tensors="pt").to(self.device)
        outputs = model(
            pixel_values=pixels["pixel_values"][rows].to(self.device, model.dtype),
            pixel_mask=pixels["pixel_mask"][rows].to(self.device),
            **tokens,
        )
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        detections = processor.post_process_grounded_object_detection(
            outputs,
            tokens["input_ids"],
            threshold=self.box_threshold,
            text_threshold=self.text_threshold,
            target_sizes=[size[::-1]] * len(pairs),
        )
        for detection in detections:
            boxes, scores = detection["boxes"].cpu(), detection["scores"].cpu()
            boxes = torch.minimum(boxes.clamp(min=0), torch.tensor(size * 2))
            phrased = torch.tensor([bool(text.strip(" .")) for text in detection["text_labels"]], dtype=torch.bool)
            real = phrased & (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
            boxes, scores = boxes[real], scores[real]
            kept = suppress(boxes, scores, self.overlap)
            yield boxes[kept], scores[kept]

    @torch.inference_mode()
    def _masks(self, images: Sequence[Image.Image], boxes: Sequence[torch.Tensor]) -> list[list[NDArray[np.bool_]]]:
        """For each image a mask ``(h, w)`` for each of its boxes ``(n, 4)``."""
        found: list[list[NDArray[np.bool_]]] = [[] for _ in images]
        boxed = [index for index, own in enumerate(boxes) if len(own)]
        for start in range(0, len(boxed), IMAGES_PER_FORWARD):
            chunk = boxed[start : start + IMAGES_PER_FORWARD]
            encoded = self._encoded([images[index] for index in chunk])
            for index, embedding in zip(chunk, encoded):
                masks, _ = self._segmented(images[index], embedding, False, input_boxes=[boxes[index].tolist()])
                found[index] = [mask.numpy() for mask in masks[:, 0]]
        return found

    def _encoded(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """SAM's view of several images, ``(n, channels, h, w)``."""
        processor, model = self._segmenter
        pixels = torch.cat([processor(images=image, return_tensors="pt")["pixel_values"] for image in images])
        return model.get_image_embeddings(pixels.to(self.device, model.dtype))

    def _segmented(
        self, image: Image.Image, encoded: torch.Tensor, multimask_output: bool, **prompts: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """SAM's masks ``(prompts, masks, h, w)``, boolean, and how good it thinks each is ``(prompts, masks)``."""
        processor, model = self._segmenter
        inputs = processor(images=image, **prompts, return_tensors="pt")
        given = {name: inputs[name].to(self.device, model.dtype) for name in prompts}
        outputs = model(image_embeddings=encoded[None], **given, multimask_output=multimask_output)
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        masks = processor.image_processor.post_process_masks([outputs.pred_masks[0].float().cpu()], *sizes)[0]
        return masks, outputs.iou_scores[0].float().cpu()

    @cached_property
    def _detector(self) -> tuple[Any, Any]:
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection, GroundingDinoProcessor

        model = self._load_model(self.detector, GroundingDinoForObjectDetection)
        images = self._load(self.detector, pillow_processor("GroundingDinoImageProcessor"))
        return GroundingDinoProcessor(images, self._load(self.detector, AutoTokenizer)), model

    @cached_property
    def _segmenter(self) -> tuple[Any, Any]:
        from transformers import SamModel, SamProcessor

        model = self._load_model(self.segmenter, SamModel)
        return SamProcessor(self._load(self.segmenter, pillow_processor("SamImageProcessor"))), model

    def _load(self, checkpoint: Checkpoint, kind: Any) -> Any:
        return checkpoint.load(kind, local_files_only=self.local_files_only)

    def _load_model(self, checkpoint: Checkpoint, kind: Any) -> Any:
        model = checkpoint.load(kind, local_files_only=self.local_files_only, dtype=precision(self.device))
        return model.to(self.device).eval().requires_grad_(False)


def caption(words: str) -> str:
    """Return words as Grounding DINO was trained on them: lower case, with a full stop.

    Raises:
        ConductorError: there is no word.
    """
    text = " ".join(words.lower().split()).rstrip(" .")
    if not re.search(r"\w", text):
        raise ConductorError(f"'{words}' holds no word to look for; expected words such as 'a dog'")
    return f"{text}."


def suppress(boxes: torch.Tensor, scores: torch.Tensor, overlap: float) -> list[int]:
    """Return which of ``boxes`` ``(n, 4)`` stay, surest first, as none overlaps a surer one by more than ``overlap``.

    This is non-maximum suppression.

    Args:
        boxes: x0, y0, x1, y1 of each.
        scores: ``(n,)``.
        overlap: IoU.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        others = boxes[kept]
        corners = torch.minimum(others[:, 2:], boxes[index, 2:]) - torch.maximum(others[:, :2], boxes[index, :2])
        shared = corners.clamp(min=0).prod(1)
        if not (shared / (areas[kept] + areas[index] - shared) > overlap).any():
            kept.append(index)
    return kept
