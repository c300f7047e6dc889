"""carfilter: remove compression artifacts from video and leave everything else alone."""

__version__ = "0.1.0"
