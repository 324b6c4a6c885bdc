"""Values to bytes and back: payloads and results, as JSON or msgpack, compressed when large.

A job stores one of the names in `CODECS` beside its bytes, so bytes say themselves how they are
read. JSON (the default) is plain JSON that any language reads and writes: dates and durations are
ISO 8601 strings, bytes are base64, UUIDs and decimals are strings, sets and tuples are arrays.

Decoding never builds anything but the annotated types: nothing is pickled, no name in the data
picks a class. Broken or hostile bytes raise `CodecError`, and their decompressed size is counted
while it is produced, so that a small bomb cannot take the memory.

pydantic models are carried wherever they stand in a value, when the application has imported
pydantic; this module never imports it.
"""

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar, cast, overload

import msgspec
import zstandard

from ropeway.errors import CodecError, ConfigError, PayloadTooLarge

T = TypeVar("T")

Format = Literal["json", "msgpack"]

CODECS = ("json", "msgpack", "json+zstd", "msgpack+zstd")
"""Every codec name that a job can carry."""

REFERENCE = "ref"
"""The codec name of what is kept outside of the record; see `ropeway.offload`."""

COMPRESS_ABOVE_BYTES = 16 * 1024
"""Encoded values above this size are compressed, when that makes them smaller."""

STORED_MAX_BYTES = 1024 * 1024
"""Default limit of a payload or a result as it is stored, after compression."""

DECODED_MAX_BYTES = 64 * 1024 * 1024
"""Limit of an encoded value before compression and after decompression."""

# RFC 8878 (3.1.1.1.2) recommends that decoders support windows of at least 8 MB; larger ones
# would let a header of ten bytes ask for that much memory.
_WINDOW_MAX_BYTES = 8 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024
_ZSTD_LEVEL = 3
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SEARCH_DEPTH_MAX = 32  # how deep a message looks for the culprit
# A 64-bit float of msgpack whose exponent is all ones: NaN or an infinity (IEEE 754).
_NON_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]", re.DOTALL)


class Encoded(NamedTuple):
    """Bytes and the name of the codec that reads them."""

    data: bytes
    codec: str


class _Compressors(threading.local):
    """zstd contexts are costly to make (36 us) and may not be shared by threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX_BYTES)


_zstd = _Compressors()


def encode(
    value: object,
    *,
    codec: Format = "json",
    compress_above_bytes: int | None = COMPRESS_ABOVE_BYTES,
    limit_bytes: int = STORED_MAX_BYTES,
    what: str = "payload",
) -> Encoded:
    """Encode `value`; `what` names it in errors ("payload of crawl.fetch").

    Values over `compress_above_bytes` are compressed with zstd when that makes them smaller
    (`None`: never). `limit_bytes` bounds what is stored, that is after compression; before it,
    `DECODED_MAX_BYTES` always holds, so that whatever was encoded can be decoded.

    JSON has no word for NaN and the infinities: they are refused. msgpack carries them.

    Raises `CodecError` for a value that cannot be carried, naming where it is and its type;
    `PayloadTooLarge` over a limit.
    """
    return pack(
        serialize(value, codec, what=what),
        codec,
        compress_above_bytes=compress_above_bytes,
        limit_bytes=limit_bytes,
        what=what,
    )


def encode_small(value: object, codec: Format, *, limit_bytes: int) -> bytes | None:
    """`encode` for values about which there is nothing to say, in a fifth of the time.

    None for all others: large ones and those that may have to be refused. Give them to `encode`.
    """
    try:
        data = _ENCODERS[codec].encode(value)
    except Exception:  # noqa: BLE001 - properties and models run the user's code
        return None
    if len(data) > limit_bytes or len(data) > COMPRESS_ABOVE_BYTES:
        return None
    return None if b"null" in data and codec == "json" else data


@overload
def decode(
    data: bytes, codec: str, type_: type[T], *, limit_bytes: int = ..., what: str = ...
) -> T: ...
@overload
def decode(
    data: bytes, codec: str, type_: Any, *, limit_bytes: int = ..., what: str = ...
) -> Any: ...
def decode(
    data: bytes,
    codec: str,
    type_: Any,
    *,
    limit_bytes: int = DECODED_MAX_BYTES,
    what: str = "payload",
) -> Any:
    """Decode `data`, written by the codec of that name, into `type_` (`Any`: plain JSON types).

    `limit_bytes` bounds the size after decompression; `what` names the value in errors.

    Raises `CodecError` when the codec is unknown, the bytes are broken or do not fit the type
    (the message names the place), `PayloadTooLarge` over the limit, and `ConfigError` when no
    value of `type_` could ever be decoded.
    """
    return deserialize(unpack(data, codec, limit_bytes=limit_bytes, what=what), codec, type_, what)


def serialize(value: object, codec: Format, *, what: str) -> bytes:
    """The first half of `encode`: to bytes, neither compressed nor limited."""
    encoder = _ENCODERS.get(codec)
    if encoder is None:
        raise CodecError(f"{what}: unknown format {codec!r}; use 'json' or 'msgpack'")
    try:
        data = encoder.encode(value)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - properties and models run the user's code
        _refuse_value(value, encoder, error, what)
    # msgspec writes non-finite floats as null: only then look closer.
    if codec == "json" and b"null" in data:
        _refuse_non_finite(value, what)
    return data


def pack(
    data: bytes, codec: Format, *, compress_above_bytes: int | None, limit_bytes: int, what: str
) -> Encoded:
    """The second half of `encode`: compress serialized bytes and check their size."""
    size = len(data)
    if size > DECODED_MAX_BYTES:
        raise _too_large(what, f"{size} bytes", DECODED_MAX_BYTES)
    if size <= limit_bytes and size <= (compress_above_bytes or 0):
        return Encoded(data, codec)
    encoded = Encoded(data, codec)
    if compress_above_bytes is not None and size > compress_above_bytes:
        smaller = _zstd.compressor.compress(data)
        if len(smaller) < size:
            encoded = Encoded(smaller, codec + "+zstd")
    if len(encoded.data) > limit_bytes:
        raise _too_large(what, f"{len(encoded.data)} bytes ({encoded.codec})", limit_bytes)
    return encoded


def unpack(data: bytes, codec: str, *, limit_bytes: int, what: str) -> bytes:
    """The first half of `decode`: decompressed bytes, at most `limit_bytes` of them."""
    if codec == REFERENCE:
        raise CodecError(
            f"{what}: it is kept outside of the job's record; give the app the "
            "offload=Offload(...) of the program that wrote it"
        )
    if codec not in CODECS:
        raise CodecError(f"{what}: unknown codec {codec!r}; this release knows {', '.join(CODECS)}")
    if codec.endswith("+zstd"):
        return _decompress(data, limit_bytes, what)
    if len(data) > limit_bytes:
        raise _too_large(what, f"{len(data)} bytes", limit_bytes)
    return data


def deserialize(data: bytes, codec: str, type_: Any, what: str) -> Any:
    """The second half of `decode`: from decompressed bytes into `type_`."""
    decoder = _decoder_for(codec.startswith("json"), type_, what)
    try:
        return decoder.decode(data)
    except MemoryError:
        raise
    except RecursionError as error:
        raise CodecError(f"{what}: nested too deeply to be read") from error
    except Exception as error:  # validators and `__post_init__` of annotated types are user code
        raise CodecError(f"{what}: {error}") from error


def decoder(codec: str, type_: Any, *, what: str) -> Callable[[bytes], Any]:
    """A function from plain bytes to `type_`; what it raises does not say what is wrong.

    Where it raises, `decode` says it. Raises `ConfigError` as `decode` does.
    """
    return _decoder_for(codec == "json", type_, what).decode


def require_decodable(type_: Any, codec: Format = "json", *, what: str) -> None:
    """Raise `ConfigError` when no bytes of this format could ever be decoded into `type_`."""
    _decoder_for(codec == "json", type_, what)


def canonical(value: object, *, what: str = "value") -> bytes:
    """JSON with every key sorted and no spaces: equal values give equal bytes everywhere.

    A dataclass and a dict of the same content are equal, so are a tuple and a list.
    Raises `CodecError` as `encode` does.
    """
    try:
        return _CANONICAL.encode(value)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - as in `serialize`
        _refuse_value(value, _CANONICAL, error, what)


# -- types ------------------------------------------------------------------------------------


# msgspec carries them as values: it asks for help only where one is a key in JSON.
_NEVER_KEYS = {type(None), bool, tuple, frozenset}


def _base_model() -> Any:
    """Return pydantic's BaseModel when the application uses pydantic, otherwise None."""
    return getattr(sys.modules.get("pydantic"), "BaseModel", None)


def _to_plain(value: object) -> object:
    """Turn what msgspec does not know into what it knows (msgspec's `enc_hook`)."""
    model = _base_model()
    if model is not None and isinstance(value, model):
        # JSON mode: dumps what validates again, the same in both formats.
        return cast(Any, value).model_dump(mode="json", by_alias=True, round_trip=True)
    if type(value) in _NEVER_KEYS:
        raise TypeError(f"a {_type_name(type(value))} cannot be a key of a JSON object")
    raise TypeError(f"a {_type_name(type(value))} cannot be carried")


def _from_plain(type_: Any, value: object) -> object:
    """Build the types that msgspec does not know (msgspec's `dec_hook`)."""
    model = _base_model()
    if model is not None and isinstance(type_, type) and issubclass(type_, model):
        try:
            return cast(Any, type_).model_validate_json(_JSON.encode(value))
        except ValueError as error:
            raise ValueError(_pydantic_message(error)) from error
    if isinstance(value, type_):
        return value
    raise TypeError(f"values of the type {_type_name(type_)} cannot be carried")


def _pydantic_message(error: ValueError) -> str:
    details = cast(list[dict[str, Any]], cast(Any, error).errors(include_url=False))
    return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in details)


def _refuse_extension(code: int, data: memoryview) -> object:
    raise ValueError(f"unknown msgpack extension {code} of {len(data)} bytes")


def _type_name(type_: Any) -> str:
    module = getattr(type_, "__module__", "builtins")
    name = getattr(type_, "__qualname__", None) or str(type_)
    return name if module in {"builtins", "typing"} else f"{module}.{name}"


_JSON = msgspec.json.Encoder(enc_hook=_to_plain)
_CANONICAL = msgspec.json.Encoder(enc_hook=_to_plain, order="sorted")
_MSGPACK = msgspec.msgpack.Encoder(enc_hook=_to_plain)
_ENCODERS: dict[str, msgspec.json.Encoder | msgspec.msgpack.Encoder] = {
    "json": _JSON,
    "msgpack": _MSGPACK,
}

_Decoder = msgspec.json.Decoder[Any] | msgspec.msgpack.Decoder[Any]


def _decoder_for(json: bool, type_: Any, what: str) -> _Decoder:  # noqa: FBT001 - a cache key
    try:
        return _cached_decoder(json, type_)
    except Exception as error:
        raise ConfigError(
            f"{what}: values of {_type_name(type_)} cannot be decoded ({error}); annotate with "
            "a dataclass, a msgspec Struct, a pydantic model or plain types, defined where "
            "they can be found at run time"
        ) from error


@lru_cache(maxsize=4096)
def _cached_decoder(json: bool, type_: Any) -> _Decoder:  # noqa: FBT001 - a cache key
    if json:
        return msgspec.json.Decoder(type_, dec_hook=_from_plain)
    return msgspec.msgpack.Decoder(type_, dec_hook=_from_plain, ext_hook=_refuse_extension)


# -- naming what cannot be carried ------------------------------------------------------------


def _refuse_value(
    value: object,
    encoder: msgspec.json.Encoder | msgspec.msgpack.Encoder,
    error: Exception,
    what: str,
) -> NoReturn:
    if isinstance(error, RecursionError):
        raise CodecError(
            f"{what}: nested too deeply, or contains itself; pass an id or a flat structure"
        ) from error
    path, culprit, reason = _locate(value, encoder, error)
    raise CodecError(
        f"{what}: the {_type_name(type(culprit))} at `{path}` cannot be encoded ({reason}); "
        "pass plain values, a dataclass, a msgspec Struct or a pydantic model, or an id to "
        "load it by"
    ) from error


def _locate(
    value: object, encoder: msgspec.json.Encoder | msgspec.msgpack.Encoder, error: Exception
) -> tuple[str, object, Exception]:
    """Find the deepest part of `value` that fails by itself: its path, the part, the reason."""
    path = "$"
    for _ in range(_SEARCH_DEPTH_MAX):
        for step, child in _children(value):
            try:
                encoder.encode(child)
            except Exception as deeper:  # noqa: BLE001 - that it fails is what is looked for
                path, value, error = path + step, child, deeper
                break
        else:
            break
    return path, value, error


def _children(value: object) -> Iterator[tuple[str, object]]:
    """The parts of a container with their steps in a path, written as msgspec writes paths."""
    if isinstance(value, dict):
        for key, item in cast(dict[object, object], value).items():
            yield (f".{key}" if isinstance(key, str) else f"[{key!r}]"), item
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(cast(list[object], value)):
            yield f"[{index}]", item
    else:
        fields: Iterable[str] = getattr(
            value, "__struct_fields__", getattr(value, "__dataclass_fields__", ())
        )
        for name in fields:
            if (item := getattr(value, name, None)) is not msgspec.UNSET:
                yield f".{name}", item


def _refuse_non_finite(value: object, what: str) -> None:
    try:
        if not _NON_FINITE.search(_MSGPACK.encode(value)):
            return
    except OverflowError:
        pass  # integers over 64 bits, which msgpack lacks: look at every value instead
    plain = msgspec.to_builtins(value, enc_hook=_to_plain)
    pending = [("$", plain)]
    while pending:
        path, item = pending.pop()
        if isinstance(item, float) and item - item != 0.0:
            raise CodecError(
                f"{what}: {item} at `{path}` has no JSON form and would be read as null; "
                "pass None or a finite number, or choose codec='msgpack'"
            )
        pending.extend((path + step, child) for step, child in _children(item))


def _too_large(what: str, size: str, limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"{what}: {size} is over the limit of {limit_bytes} bytes; pass a reference (a path, a "
        "URL, an id) in place of the content, or raise the limit"
    )


# -- compression ------------------------------------------------------------------------------


def _decompress(data: bytes, limit_bytes: int, what: str) -> bytes:
    """Decompress exactly one zstd frame, producing at most `limit_bytes` + 1 bytes.

    The size in the frame's header is never used: it is the sender's claim.
    """
    try:
        end = _frame_end(data)
        if end != len(data):
            raise CodecError(
                f"{what}: not one whole zstd frame (ends at byte {end} of {len(data)})"
            )
        chunks: list[bytes] = []
        left = limit_bytes + 1
        with _zstd.decompressor.stream_reader(data) as reader:
            while left and (chunk := reader.read(min(left, _CHUNK_BYTES))):
                chunks.append(chunk)
                left -= len(chunk)
    except zstandard.ZstdError as error:
        raise CodecError(f"{what}: broken zstd data ({error})") from error
    if not left:
        raise _too_large(what, "the decompressed size", limit_bytes)
    return b"".join(chunks)


def _frame_end(data: bytes) -> int:
    """Where the frame at the start of `data` ends, past the data if it is cut (RFC 8878, 3.1.1).

    The reader itself takes a cut frame for the end of the stream, and ignores what follows one.
    """
    if data[:4] != _ZSTD_MAGIC:
        raise zstandard.ZstdError("no zstd frame")
    has_checksum = zstandard.get_frame_parameters(data).has_checksum
    position = zstandard.frame_header_size(data)
    last = False
    while not last and position < len(data):
        header = int.from_bytes(data[position : position + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        position += 3 + (1 if kind == 1 else size)  # kind 1 repeats one byte
    return position + (4 if has_checksum else 0) + (0 if last else 1)
