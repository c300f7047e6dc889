"""What a detector sees before and after carfilter: boxes drawn, decoded left and restored right.

    pip install 'carfilter[eval]'
    python samples/detect.py in.mp4 yolox_nano.onnx boxes.mp4

`carfilter-eval --help` says where to get that detector. Prints how many boxes each side had.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

import carfilter
from carfilter.detection.detector import Boxes, DetectorSettings, OnnxDetector

SURE = 0.25


def decoded_frames(source: str) -> Iterator[av.VideoFrame]:
    """Yield the frames as they are."""
    with av.open(source) as container:
        yield from container.decode(video=0)


def drawn(frame: av.VideoFrame, detector: OnnxDetector) -> tuple[np.ndarray, Boxes]:
    """Return the frame with its boxes, uint8 [H, W, 3] in RGB, and the boxes."""
    rgb = frame.to_ndarray(format="rgb24")
    boxes = detector(rgb[..., ::-1])
    picture = Image.fromarray(rgb)
    pen = ImageDraw.Draw(picture)
    for corners, score, kind in zip(boxes.corners, boxes.scores, boxes.classes, strict=True):
        pen.rectangle(corners.tolist(), outline="yellow")
        pen.text(corners[:2].tolist(), f"{detector.class_names[kind]} {score:.2f}", "yellow")
    return np.asarray(picture), boxes


def main(source: str, model: str, target: str, weights: str = "detect") -> None:
    """Detect on both sides of every frame and write them beside each other."""
    detector = OnnxDetector(Path(model), DetectorSettings(score=SURE))
    counts = np.zeros(2, int)
    with av.open(target, "w") as out:
        stream = None
        # Both are lazy: a frame is decoded, restored and looked at before the next one.
        for pair in zip(
            decoded_frames(source), carfilter.restored_frames(source, weights), strict=True
        ):
            (before, found_before), (after, found_after) = (drawn(f, detector) for f in pair)
            counts += len(found_before), len(found_after)
            both = av.VideoFrame.from_ndarray(np.hstack([before, after]), format="rgb24")
            if stream is None:
                stream = out.add_stream("libx264", options={"crf": "18"})
                stream.width, stream.height, stream.pix_fmt = both.width, both.height, "yuv420p"
                stream.time_base = pair[0].time_base
            both.pts, both.time_base = pair[0].pts, pair[0].time_base
            out.mux(stream.encode(both))
        if stream is not None:
            out.mux(stream.encode(None))
    print(f"{counts[0]} boxes before, {counts[1]} after")


if __name__ == "__main__":
    main(*sys.argv[1:])
