"""What a target tells of a file as a whole: its tags, its chapters, and how it was made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from carfilter.media.options import TargetOptions
from carfilter.media.source import Source

if TYPE_CHECKING:
    import av.container

logger = logging.getLogger("carfilter")

_MUXER_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands"}
_MP4 = {"mp4", "mov", "ipod", "f4v", "ismv"}
WITH_CHAPTERS = {*_MP4, "3gp", "3g2", "psp", "matroska", "webm", "nut", "asf", "ogg"}
_KNOWN_KEYS_ALONE = {*_MP4, "avi"}  # the comment is one of them
_ANY_KEY = {"matroska", "webm", "flv", "nut", "asf", "ogg", "wtv"}
# Of phones and cameras: FFmpeg writes them into MP4 and MOV only where it is told to.
_APPLE = ("com.", "org.")


def copy_container_tags(
    container: av.container.OutputContainer,
    source: Source,
    options: TargetOptions,
    format_name: str,
) -> None:
    """Give a target the source's tags and chapters; say so where its format has none of these."""
    tags = {
        key: value
        for key, value in source.container.metadata.items()
        if key.lower() not in _MUXER_TAGS
    }
    chapters = source.cut().chapters(source.shift_seconds)
    if chapters and format_name not in WITH_CHAPTERS:
        logger.warning(
            "the %s format holds no chapters: the source's %d are lost; use an .mkv or .mp4 target",
            format_name,
            len(chapters),
        )
    elif chapters:
        container.set_chapters(chapters)
    if tags and format_name not in _ANY_KEY | _KNOWN_KEYS_ALONE:
        logger.info("the %s format keeps few tags or none: %s", format_name, ", ".join(tags))
    container.metadata.update({**tags, **dict(options.metadata)})


def keep_any_key(container: av.container.OutputContainer, source: Source) -> None:
    """Let MP4 and MOV keep tags beside those they know, where the source has such: a phone's place
    and make, say. Call it before the header is written."""
    keys = source.container.metadata
    if container.format.name in _MP4 and any(key.lower().startswith(_APPLE) for key in keys):
        options = container.container_options
        given = options.get("movflags")
        options["movflags"] = f"{given}+use_metadata_tags" if given else "use_metadata_tags"


def add_provenance(
    container: av.container.OutputContainer, format_name: str, text: str, *, is_file: bool
) -> None:
    """Write how the file was made into its tags; call it before the first frame.

    MP4, MOV and AVI keep known keys only, so there it follows what stands in the comment. Where a
    file's format has neither, that is said.
    """
    tags = container.metadata
    if format_name in _KNOWN_KEYS_ALONE:
        tags["comment"] = f"{tags['comment']}\n{text}" if tags.get("comment") else text
        return
    tags["carfilter"] = text
    if format_name not in _ANY_KEY and is_file:
        logger.info(
            "the %s format has no tags that could say how it was made; --sidecar writes it beside",
            format_name,
        )
