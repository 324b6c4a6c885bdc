import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import subprocess
import sys
import threading
import tracemalloc
import typing
import uuid
from typing import Any

import msgspec
import pydantic
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ropeway import codec
from ropeway.codec import CODECS, decode, encode
from ropeway.errors import CodecError, ConfigError, PayloadTooLarge

FORMATS: tuple[codec.Format, ...] = ("json", "msgpack")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Address:
    street: str
    zip_code: int | None = None


class Order(msgspec.Struct):
    id: uuid.UUID
    to: Address


class Options(typing.TypedDict, total=False):
    depth: int


class Point(typing.NamedTuple):
    x: int
    y: int


class User(pydantic.BaseModel):
    name: str
    joined: dt.datetime
    age: int = pydantic.Field(ge=0)


UTC_NOON = dt.datetime(2030, 1, 2, 12, 0, 0, 250_000, tzinfo=dt.UTC)
USER = User(name="Ada", joined=UTC_NOON, age=36)

EXAMPLES: list[tuple[Any, Any]] = [
    (None, type(None)),
    (True, bool),
    (2**63, int),
    (-1.5e-7, float),
    ("ünï \U0001f6a1", str),
    (b"\x00\xff", bytes),
    (bytearray(b"\x01"), bytearray),
    (Colour.RED, Colour),
    (Level.LOW, Level),
    (UTC_NOON, dt.datetime),
    (dt.datetime(2030, 1, 2, 3), dt.datetime),  # noqa: DTZ001 - naive values stay naive
    (dt.date(2030, 1, 2), dt.date),
    (dt.time(3, 4, 5, 6), dt.time),
    (dt.timedelta(days=2, microseconds=7), dt.timedelta),
    (uuid.UUID(int=5), uuid.UUID),
    (decimal.Decimal("10.10"), decimal.Decimal),
    ({1, 2}, set[int]),
    (frozenset({"a"}), frozenset[str]),
    ((1, "b"), tuple[int, str]),
    ([[1], []], list[list[int]]),
    ({"a": 1.5}, dict[str, float]),
    ({7: "x"}, dict[int, str]),
    (Address("Main St", 10_115), Address),
    (Order(uuid.UUID(int=1), Address("x")), Order),
    ({"depth": 3}, Options),
    (Point(1, 2), Point),
    (None, Address | None),
    (USER, User),
    ([USER], list[User]),
    ({"u": USER}, dict[str, User | None]),
]


# -- round trips ------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("value", "type_"), EXAMPLES, ids=lambda item: repr(item)[:40])
def test_every_supported_type_comes_back_equal_and_of_its_type(value, type_, format_):
    encoded = encode(value, codec=format_)
    back = decode(encoded.data, encoded.codec, type_)
    assert back == value
    assert type(back) is type(value)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # lone surrogates have no UTF-8 form
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(value=PLAIN, format_=st.sampled_from(FORMATS), threshold=st.sampled_from([None, 0, 64]))
@settings(max_examples=150, deadline=None)
def test_any_plain_value_survives_both_formats_compressed_or_not(value, format_, threshold):
    encoded = encode(value, codec=format_, compress_above_bytes=threshold)
    assert encoded.codec in CODECS
    assert decode(encoded.data, encoded.codec, Any) == value


@given(value=PLAIN)
@settings(max_examples=50, deadline=None)
def test_json_is_what_the_standard_library_reads(value):
    assert json.loads(encode(value, compress_above_bytes=None).data) == value


def test_json_of_rich_types_uses_the_notations_of_other_languages():
    value = {"at": UTC_NOON, "raw": b"\xff", "id": uuid.UUID(int=1), "sum": decimal.Decimal("1.0")}
    assert json.loads(encode(value).data) == {
        "at": "2030-01-02T12:00:00.250000Z",
        "raw": "/w==",
        "id": "00000000-0000-0000-0000-000000000001",
        "sum": "1.0",
    }


def test_any_gives_plain_json_types():
    assert decode(encode(Address("x")).data, "json", Any) == {"street": "x", "zip_code": None}


def test_integers_wider_than_64_bits_fit_json_and_are_refused_by_msgpack():
    assert decode(encode(2**70).data, "json", int) == 2**70
    with pytest.raises(CodecError, match="serialize ints"):
        encode([2**70], codec="msgpack")


# -- values that cannot be carried ------------------------------------------------------------


@dataclasses.dataclass
class Holder:
    items: dict[str, list[Any]]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_value_without_a_form_is_named_with_its_place_its_type_and_the_way_out(format_):
    with pytest.raises(CodecError) as caught:
        encode(Holder({"a": [1, threading.Lock()]}), codec=format_, what="payload of t")
    text = str(caught.value)
    for part in ("payload of t", "lock", "`$.items.a[1]`", "dataclass", "an id"):
        assert part in text


def test_a_key_without_a_form_is_named():
    with pytest.raises(
        CodecError, match=r"dict at `\$\[0\]`.*a tuple cannot be a key of a JSON object"
    ):
        encode([{(1, 2): 3}])
    assert decode(encode({(1, 2): 3}, codec="msgpack").data, "msgpack", Any) == {(1, 2): 3}


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("value", [object(), "\ud800", 1 + 2j, iter([]), ValueError("x"), print])
def test_nothing_but_codec_error_leaves_encode(value, format_):
    with pytest.raises(CodecError):
        encode({"k": value}, codec=format_)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_value_that_contains_itself_is_refused(format_):
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CodecError, match="contains itself"):
        encode(loop, codec=format_)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_json_refuses_non_finite_numbers_instead_of_writing_null(bad):
    with pytest.raises(CodecError, match=r"`\$\.a\[1\]` has no JSON form.*msgpack"):
        encode({"a": [None, bad], "b": 2**70})
    with pytest.raises(CodecError, match=r"`\$\.a`"):
        encode(collections.OrderedDict(b=None, a=bad))


def test_json_with_null_and_finite_numbers_is_accepted():
    value = [None, "null", 1e308, b"\xcb\x7f\xf8", 2**63, 2**70]
    assert decode(encode(value).data, "json", Any) == [None, "null", 1e308, "y3/4", 2**63, 2**70]


def test_msgpack_carries_non_finite_numbers():
    assert math.isnan(decode(encode(math.nan, codec="msgpack").data, "msgpack", float))


def test_a_non_finite_number_inside_a_pydantic_model_is_refused():
    class Measure(pydantic.BaseModel):
        value: float

    with pytest.raises(CodecError, match=r"`\$\.value`"):
        encode(Measure(value=math.nan))


# -- pydantic ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_a_pydantic_rule_that_is_broken_is_named_with_its_field(format_):
    data = encode({"name": "x", "joined": UTC_NOON, "age": -1}, codec=format_).data
    with pytest.raises(CodecError, match=r"age: Input should be greater than or equal to 0"):
        decode(data, format_, User)


def test_strict_models_aliases_and_computed_fields_come_back():
    class Strict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True, extra="forbid")
        at: dt.datetime = pydantic.Field(alias="@at")

        @pydantic.computed_field
        @property
        def year(self) -> int:
            return self.at.year

    value = Strict.model_validate({"@at": UTC_NOON})
    for format_ in FORMATS:
        assert decode(encode(value, codec=format_).data, format_, Strict) == value


def test_pydantic_is_never_imported_by_the_codec():
    code = (
        "import sys; from ropeway.codec import encode, decode\n"
        "try: encode(object())\n"
        "except ValueError: pass\n"
        "decode(encode([1]).data, 'json', list[int]); sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- bytes that do not decode -----------------------------------------------------------------


def test_an_unknown_codec_is_refused_with_the_known_ones():
    with pytest.raises(CodecError, match=r"'pickle'.*json, msgpack, json\+zstd, msgpack\+zstd"):
        decode(b"1", "pickle", Any)
    with pytest.raises(CodecError, match="'yaml'"):
        encode(1, codec="yaml")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "json"),
        (b"", "msgpack"),
        (b"", "json+zstd"),
        (b"1 2", "json"),
        (b"\x01\x02", "msgpack"),
        (b'"\xff"', "json"),
        (b"\xa1\xff", "msgpack"),
        (b"NaN", "json"),
        (b"9" * 100_000, "json"),
        (b"\xd4\x05\x00", "msgpack"),
        (b"\x81\x80\x01", "msgpack"),
        (b"not a frame", "json+zstd"),
    ],
)
def test_broken_bytes_are_a_codec_error(data, name):
    with pytest.raises(CodecError, match="result of t"):
        decode(data, name, Any, what="result of t")


@pytest.mark.parametrize(("bomb", "name"), [(b"[" * 10**6, "json"), (b"\x91" * 10**6, "msgpack")])
def test_a_depth_bomb_is_a_codec_error(bomb, name):
    with pytest.raises(CodecError, match="too deeply"):
        decode(bomb, name, Any)


def test_a_wrong_type_names_the_place():
    with pytest.raises(CodecError, match=r"Expected `int`, got `str` - at `\$\[1\]`"):
        decode(b'[1,"2"]', "json", list[int])


def test_whatever_a_types_own_checks_raise_is_a_codec_error():
    @dataclasses.dataclass
    class Picky:
        x: int

        def __post_init__(self) -> None:
            raise KeyError(self.x)

    with pytest.raises(CodecError):
        decode(b'{"x":1}', "json", Picky)


def test_a_type_that_no_bytes_decode_into_is_a_config_error():
    with pytest.raises(ConfigError, match="defined where they can be found"):
        decode(b"1", "json", int | complex)


def test_a_type_that_nothing_is_known_about_is_a_codec_error():
    with pytest.raises(CodecError, match=r"threading\.Thread cannot be carried"):
        decode(b"1", "json", threading.Thread)


SAMPLE = {"a": [1, 2.5, None, "xyz" * 40], "b": {"c": True}} | {f"k{i}": i for i in range(50)}


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_cut_or_flipped_bytes_give_a_value_or_a_codec_error_never_anything_else(data):
    format_ = data.draw(st.sampled_from(FORMATS))
    threshold = data.draw(st.sampled_from([None, 0]))
    encoded = encode(SAMPLE, codec=format_, compress_above_bytes=threshold)
    broken = bytearray(encoded.data)
    if data.draw(st.booleans()):
        del broken[data.draw(st.integers(0, len(broken) - 1)) :]
    else:
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    compressed = encoded.codec.endswith("zstd")
    try:
        value = decode(bytes(broken), encoded.codec, dict[str, Any])
    except CodecError:
        return
    # The checksum of a frame leaves no change unseen that reaches the content.
    assert not compressed or value == SAMPLE


# -- sizes and compression --------------------------------------------------------------------


def test_values_are_compressed_only_above_the_threshold_and_only_if_it_helps():
    assert encode("x" * 100, compress_above_bytes=102).codec == "json"
    assert encode("x" * 101, compress_above_bytes=102).codec == "json+zstd"
    assert encode(3, compress_above_bytes=0).codec == "json"
    assert encode("x" * 100_000, compress_above_bytes=None).codec == "json"
    assert encode("x" * 100_000, codec="msgpack").codec == "msgpack+zstd"


def test_the_limit_counts_what_is_stored():
    assert len(encode("x" * 100_000, limit_bytes=1_000).data) < 1_000
    with pytest.raises(PayloadTooLarge, match=r"payload of t: 102 bytes.*limit of 101.*an id"):
        encode("x" * 100, limit_bytes=101, what="payload of t")
    assert len(encode("x" * 100, limit_bytes=102).data) == 102


def test_nothing_is_encoded_that_could_not_be_decoded(monkeypatch):
    monkeypatch.setattr(codec, "DECODED_MAX_BYTES", 1_000)
    with pytest.raises(PayloadTooLarge, match="1001 bytes"):
        encode("x" * 999)
    assert encode("x" * 998).codec == "json"


def test_uncompressed_bytes_over_the_limit_are_not_decoded():
    with pytest.raises(PayloadTooLarge):
        decode(b"[1,2,3]", "json", Any, limit_bytes=6)
    assert decode(b"[1,2,3]", "json", Any, limit_bytes=7) == [1, 2, 3]


def _frame(content: bytes, *, with_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_content_size=with_size).compress(content)


@pytest.mark.parametrize("with_size", [True, False])
def test_a_small_bomb_is_refused_without_producing_more_than_the_limit(with_size):
    content_bytes, limit_bytes = 256 * 1024 * 1024, 1_000_000
    bomb = _frame(bytes(content_bytes), with_size=with_size)
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match="limit of 1000000 bytes"):
            decode(bomb, "json+zstd", Any, limit_bytes=limit_bytes)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * limit_bytes


def test_decompression_up_to_the_limit_exactly_is_accepted():
    frame = _frame(b'"' + b"x" * 998 + b'"', with_size=False)
    assert decode(frame, "json+zstd", str, limit_bytes=1_000) == "x" * 998
    with pytest.raises(PayloadTooLarge):
        decode(frame, "json+zstd", str, limit_bytes=999)


def test_a_header_that_lies_about_the_size_is_not_believed():
    frame = bytearray(_frame(b"1" * 100))
    assert zstandard.get_frame_parameters(bytes(frame)).content_size == 100
    frame[5] = 1
    with pytest.raises(CodecError):
        decode(bytes(frame), "json+zstd", Any)


def test_a_header_that_asks_for_a_huge_window_is_refused():
    window_descriptor = bytes([(27 - 10) << 3])  # 2**27 bytes
    frame = b"\x28\xb5\x2f\xfd\x00" + window_descriptor + b"\x09\x00\x001"
    with pytest.raises(CodecError, match="broken zstd data"):
        decode(frame, "json+zstd", Any)


def test_a_cut_frame_and_bytes_after_a_frame_are_refused():
    frame = _frame(b"[" + b"1," * 500 + b"1]")
    assert decode(frame, "json+zstd", list[int]) == [1] * 501
    for broken in (frame[:-1], frame + b"x", frame + frame):
        with pytest.raises(CodecError):
            decode(broken, "json+zstd", Any)


def test_large_values_that_compress_well_and_badly_come_back():
    text = "".join(f"{i * 2_654_435_761 % 2**32:x}" for i in range(300_000))
    for value in (text, "x" * 20_000_000):
        encoded = encode(value, limit_bytes=8_000_000)
        assert encoded.codec == "json+zstd"
        assert decode(encoded.data, encoded.codec, str) == value


def test_threads_compress_and_decompress_at_the_same_time():
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            encoded = encode([number] * 20_000)
            if decode(encoded.data, encoded.codec, list[int]) != [number] * 20_000:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# -- canonical form ---------------------------------------------------------------------------


def test_the_canonical_form_does_not_depend_on_order_or_container():
    assert codec.canonical({"b": {2, 1}, "a": Address("x")}) == codec.canonical(
        {"a": {"zip_code": None, "street": "x"}, "b": (1, 2)}
    )


def test_the_canonical_form_of_what_has_none_is_refused():
    with pytest.raises(CodecError, match=r"`\$\.a`"):
        codec.canonical({"a": object()})
