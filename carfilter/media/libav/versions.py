"""Which FFmpeg this is, through PyAV."""

import av


def ffmpeg_version() -> str:
    """Return FFmpeg's own version, and those of its libraries that matter here."""
    names = ("libavcodec", "libavformat")
    libraries = (f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in names)
    return f"{av.ffmpeg_version_info} ({', '.join(libraries)}; PyAV {av.__version__})"
