"""Cases of the tasks that find, cut out, measure or match what is in images and videos."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ray_pipelines import tasks
from tests.cases import Case
from tests.cases.media import images

LABELS = ["cat", "a red car", "dog"]
NOT_AN_IMAGE = b"not an image"


def pictures() -> list[Image.Image]:
    """Upright pictures in RGB of three shapes, several of each."""
    sizes = ((64, 40), (40, 64), (64, 40), (64, 40), (50, 50), (40, 64))
    return [picture(size, seed) for seed, size in enumerate(sizes)]


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Coloured blocks with some noise."""
    rng = np.random.default_rng(seed)
    width, height = size
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    pixels = np.kron(blocks, np.ones((8, 8, 1)))[:height, :width] + rng.integers(-9, 10, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def video(
    num_frames: int, seed: int = 0, container: str = "mp4", size: tuple[int, int] = (48, 32), rotation: int = 0
) -> bytes:
    """An encoded video of coloured blocks that change with time; its frames are to be turned by `rotation` degrees."""
    import av

    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for _ in range(num_frames):
            blocks = rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
            pixels = np.kron(blocks, np.ones((16, 16, 1), dtype=np.uint8))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def all_frames(data: bytes) -> np.ndarray:
    """The frames of an encoded video, `uint8[num_frames, height, width, 3]`."""
    import av

    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _videos() -> list[bytes]:
    return [video(num_frames, seed) for seed, num_frames in enumerate((9, 4, 12, 7))]


@functools.cache
def _pipeline(task: str, folder: str) -> Any:
    import transformers

    return transformers.pipeline(task, model=folder, device="cpu")


def _classes_of_video(folder: Path, data: bytes) -> Any:
    """What transformers makes of all frames, from which its video processor chooses."""
    return _pipeline("video-classification", str(folder)).run_single(all_frames(data), {}, {}, {})


def _pairs() -> list[dict[str, Any]]:
    """Square pairs, in which transformers' swapped scales do no harm."""
    sizes = ((64, 64), (90, 90), (48, 48))
    return [{"image_0": picture(size, seed), "image_1": picture(size, seed + 1)} for seed, size in enumerate(sizes)]


def _matches(folder: Path, pair: dict[str, Any]) -> Any:
    return _pipeline("keypoint-matching", str(folder))([pair["image_0"], pair["image_1"]])


def _rows_with_labels() -> list[dict[str, Any]]:
    labels = (["cat", "dog"], ["a tree", "sky", "cat"], ["dog", "cat"], ["x"], ["a tree", "sky", "dog"], ["sky"])
    return [{"image": image, "candidate_labels": own} for image, own in zip(pictures(), labels, strict=True)]


def _scores_of_row(folder: Path, row: dict[str, Any]) -> Any:
    pipe = _pipeline("zero-shot-image-classification", str(folder))
    return pipe(row["image"], candidate_labels=row["candidate_labels"])


def _objects_of_row(folder: Path, row: dict[str, Any]) -> Any:
    pipe = _pipeline("zero-shot-object-detection", str(folder))
    return pipe(row["image"], candidate_labels=row["candidate_labels"], threshold=0.3)


def _depth(folder: Path, image: Image.Image) -> Any:
    """The depth alone: one float32 more or less can turn a grey level of the picture."""
    task = tasks.get("depth-estimation")
    result = _pipeline("depth-estimation", str(folder))(image)
    return task.to_result(result, task.parameters(with_picture=False))


SAM = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_crop": 5, "crops_nms_thresh": 1.0}

CASES = [
    Case("yolos", "object-detection", "yolos-detector", pictures, {"threshold": 0.3}, bad_item=NOT_AN_IMAGE),
    Case("detr", "object-detection", "detr-detector", pictures, {"threshold": 0.3}, bad_item=NOT_AN_IMAGE),
    Case("detr-default", "object-detection", "detr-detector", images, bad_item=NOT_AN_IMAGE),
    Case("segformer", "image-segmentation", "segformer", images, bad_item=NOT_AN_IMAGE),
    Case("detr-panoptic", "image-segmentation", "detr-panoptic", pictures, {"threshold": 0.2}, bad_item=NOT_AN_IMAGE),
    *(
        Case(
            f"maskformer-{subtask}",
            "image-segmentation",
            "maskformer",
            pictures,
            {"threshold": 0.1, "mask_threshold": 0.4, "overlap_mask_area_threshold": 0.1, "subtask": subtask},
            bad_item=NOT_AN_IMAGE,
        )
        for subtask in ("panoptic", "instance", "semantic")
    ),
    Case("dpt", "depth-estimation", "dpt", images, {"with_picture": False}, expected=_depth, bad_item=NOT_AN_IMAGE),
    Case(
        "depth-anything",
        "depth-estimation",
        "depth-anything",
        pictures,
        {"with_picture": False},
        expected=_depth,
        bad_item=NOT_AN_IMAGE,
        tolerance=2e-3,
    ),
    Case("dpt-picture", "depth-estimation", "dpt", lambda: images()[:1], bad_item=NOT_AN_IMAGE),
    *(
        Case(
            f"{model}{'-pool' * pool}", "image-feature-extraction", model, images, {"pool": pool}, bad_item=NOT_AN_IMAGE
        )
        for model in ("vit-features", "convnext-features")
        for pool in (False, True)
    ),
    Case(
        "features-processor",
        "image-feature-extraction",
        "vit-features",
        pictures,
        {"image_processor_kwargs": {"do_normalize": False}},
        bad_item=NOT_AN_IMAGE,
    ),
    Case(
        "superglue", "keypoint-matching", "superglue", _pairs, expected=_matches, bad_item={"image_0": picture((8, 8))}
    ),
    *(
        Case(
            model,
            "zero-shot-image-classification",
            model,
            images,
            {"candidate_labels": LABELS},
            bad_item=NOT_AN_IMAGE,
        )
        for model in ("clip", "siglip")
    ),
    Case(
        "clip-template",
        "zero-shot-image-classification",
        "clip",
        images,
        {"candidate_labels": "cat, a red car, dog", "hypothesis_template": "{} here"},
        bad_item=NOT_AN_IMAGE,
        reference_parameters={"candidate_labels": LABELS, "hypothesis_template": "{} here"},
    ),
    Case(
        "clip-rows",
        "zero-shot-image-classification",
        "clip",
        _rows_with_labels,
        expected=_scores_of_row,
        bad_item={"image": picture((8, 8)), "candidate_labels": []},
    ),
    Case(
        "owlvit",
        "zero-shot-object-detection",
        "owlvit",
        images,
        {"candidate_labels": LABELS, "threshold": 0.3, "top_k": 7},
        bad_item=NOT_AN_IMAGE,
    ),
    Case(
        "grounding-dino",
        "zero-shot-object-detection",
        "grounding-dino",
        pictures,
        {"candidate_labels": LABELS, "threshold": 0.3},
        bad_item=NOT_AN_IMAGE,
    ),
    Case(
        "owlvit-rows",
        "zero-shot-object-detection",
        "owlvit",
        _rows_with_labels,
        {"threshold": 0.3},
        expected=_objects_of_row,
        bad_item=picture((8, 8)),
    ),
    Case("sam", "mask-generation", "sam", pictures, SAM, bad_item=NOT_AN_IMAGE),
    Case("sam-defaults", "mask-generation", "sam", lambda: pictures()[:1], bad_item=NOT_AN_IMAGE),
    Case(
        "sam-crops",
        "mask-generation",
        "sam",
        lambda: pictures()[:2],
        SAM | {"crops_n_layers": 1, "points_per_batch": 4},
        bad_item=NOT_AN_IMAGE,
    ),
    Case(
        "videomae",
        "video-classification",
        "videomae",
        _videos,
        {"top_k": 3},
        expected=lambda folder, data: _classes_of_video(folder, data)[:3],
        bad_item=b"not a video",
    ),
]
