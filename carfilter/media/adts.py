"""AAC as MPEG-TS holds it, with a header (ADTS) in each packet; elsewhere there is one for all.

FFmpeg's muxers change over by themselves, but at a pipe they fail: what they learn from the first
packet would belong into the file's beginning. So it is told beforehand here.
"""

from __future__ import annotations

from typing import Any

import av

ADTS_FORMATS = ("mpegts", "adts", "segment", "stream_segment", "ssegment")
_TYPES = {"Main": 1, "LC": 2}  # of the AudioSpecificConfig, ISO/IEC 14496-3
_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
_CHANNELS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 8: 7}


def audio_specific_config(stream: av.stream.Stream) -> bytes | None:
    """Return the header of an AAC stream that has none of its own; None for any other stream."""
    if not isinstance(stream, av.AudioStream) or stream.codec_context.name != "aac":
        return None
    context = stream.codec_context
    kind, channels = _TYPES.get(context.profile or ""), _CHANNELS.get(context.layout.nb_channels)
    if context.extradata or kind is None or channels is None or context.sample_rate not in _RATES:
        return None
    bits = kind << 11 | _RATES.index(context.sample_rate) << 7 | channels << 3
    return bits.to_bytes(2, "big")


def without_adts(packet: av.Packet[Any]) -> av.Packet[Any]:
    """Return a packet without its ADTS header, times kept."""
    data = bytes(packet)
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0:
        return packet
    bare: av.Packet[Any] = av.Packet(data[7 if data[1] & 1 else 9 :])
    bare.pts, bare.dts, bare.duration = packet.pts, packet.dts, packet.duration
    bare.time_base, bare.is_keyframe = packet.time_base, True
    return bare
