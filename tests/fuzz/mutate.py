"""Damage bytes in the ways that disks, networks, recorders and strangers do."""

from collections.abc import Callable, Sequence
from random import Random

Mutator = Callable[[bytearray, Random, Sequence[bytes]], bytearray]

# Where containers and streams keep what sizes and counts depend on.
_LANDMARKS = (
    b"ftyp", b"moov", b"mvhd", b"tkhd", b"mdhd", b"elst", b"stsd", b"stts", b"ctts", b"stsc",
    b"stsz", b"stco", b"stss", b"avcC", b"hvcC", b"moof", b"tfhd", b"trun", b"tfdt", b"colr",
    b"\x1a\x45\xdf\xa3", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75", b"\xa3", b"\xb0", b"\xba",
    b"avih", b"strh", b"strf", b"movi", b"idx1", b"nut/multimedia", b"N\xe4\xad\xca", b"DKIF",
    b"\x00\x00\x01\x67", b"\x00\x00\x01\x68", b"\x00\x00\x01\x65", b"\x00\x00\x01\xb3", b"\xff\xc0",
    b"\xff\xda", b"FLV\x01", b"onMetaData", b"YUV4MPEG2", b"FRAME", b"PK\x01\x02", b"PK\x05\x06",
    b"data.pkl", b"__metadata__", b"data_offsets", b"channels", b"shape",
)  # fmt: skip
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _span(data: bytearray, rng: Random) -> tuple[int, int]:
    """Return a random stretch; short ones are as likely as long ones."""
    start = rng.randrange(len(data) + 1)
    length = int(2 ** rng.uniform(0, max(len(data), 2).bit_length()))
    return start, min(start + length, len(data))


def flip_bits(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    for _ in range(int(2 ** rng.uniform(0, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def write_noise(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    start, end = _span(data, rng)
    data[start:end] = rng.randbytes(end - start)
    return data


def write_zeros(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    start, end = _span(data, rng)
    data[start:end] = bytes(end - start)
    return data


def cut_out(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    start, end = _span(data, rng)
    del data[start:end]
    return data


def repeat(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    start, end = _span(data, rng)
    data[end:end] = data[start:end] * rng.randint(1, 3)
    return data


def move(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    start, end = _span(data, rng)
    taken = data[start:end]
    del data[start:end]
    place = rng.randrange(len(data) + 1)
    data[place:place] = taken
    return data


def truncate(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    del data[int(len(data) * rng.random()) :]
    return data


def behead(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    del data[: int(len(data) * rng.random() ** 2)]
    return data


def splice(data: bytearray, rng: Random, others: Sequence[bytes]) -> bytearray:
    """Go on with another file."""
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def write_number(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    """Put an extreme number where a size or a count may stand, in either byte order."""
    marks = [m for m in _LANDMARKS if m in data]
    for _ in range(rng.randint(1, 4)):
        if marks and rng.random() < 0.8:
            mark = rng.choice(marks)
            place = data.find(mark, rng.randrange(len(data)))
            place = (data.find(mark) if place < 0 else place) - 8 + rng.randrange(72)
        else:
            place = rng.randrange(len(data) or 1)
        width = rng.choice((1, 2, 4, 8))
        number = rng.choice(_NUMBERS) % (1 << 8 * width)
        place = max(place, 0)
        data[place : place + width] = number.to_bytes(width, rng.choice(("big", "little")))
    return data


def lose_units(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    """Lose coded units of a raw stream, often the key frame and the headers at its beginning."""
    parts = data.split(b"\x00\x00\x01")
    kept = [p for i, p in enumerate(parts) if rng.random() > (0.7 if i < 5 else 0.15)]
    return bytearray(b"\x00\x00\x01").join(kept)


def shuffle_packets(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytearray:
    """Lose, repeat and exchange packets of 188 bytes, as UDP does to a transport stream."""
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    out: list[bytearray] = []
    for packet in packets:
        chance = rng.random()
        if chance < 0.08:
            continue
        out += [packet] * (2 if chance < 0.14 else 1)
        if chance > 0.94 and len(out) > 1:
            out[-1], out[-2] = out[-2], out[-1]
    return bytearray().join(out)


MUTATORS: tuple[Mutator, ...] = (
    flip_bits, flip_bits, write_noise, write_zeros, cut_out, repeat, move, truncate, behead, splice,
    write_number, write_number, write_number, lose_units, shuffle_packets,
)  # fmt: skip


def mutate(seed: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Damage a file in one to three ways."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(MUTATORS)(data, rng, others)
    return bytes(data)
