import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import typing
import uuid
from typing import Annotated, Any, Literal, TypedDict, Unpack

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropeway.codec import Format
from ropeway.errors import CodecError, ConfigError, PayloadTooLarge
from ropeway.signature import Parameters

FORMATS: tuple[Format, ...] = ("json", "msgpack")


def resize(path: str, width: int, *, quality: int = 80) -> bytes:
    return f"{path} {width} {quality}".encode()


def untyped(a, b=2): ...


def run(func, *args, codec: Format = "json", **kwargs):
    """Send the arguments through a payload and call the function with what arrives."""
    parameters = Parameters.of(func)
    encoded = parameters.encode(args, kwargs, codec=codec)
    got_args, got_kwargs = parameters.decode(encoded.data, encoded.codec)
    return func(*got_args, **got_kwargs)


# -- the payload ------------------------------------------------------------------------------


def test_the_payload_is_an_object_of_argument_names():
    encoded = Parameters.of(resize).encode(("a.png", 640), {})
    assert encoded.codec == "json"
    assert json.loads(encoded.data) == {"path": "a.png", "width": 640}


def test_positional_and_keyword_calls_give_the_same_payload():
    parameters = Parameters.of(resize)
    assert parameters.encode(("a", 1), {}) == parameters.encode((), {"width": 1, "path": "a"})


def test_an_argument_left_out_takes_the_default_of_the_code_that_runs_it():
    def later(path: str, width: int, height: int = 9) -> tuple[str, int, int]:
        return path, width, height

    old = Parameters.of(resize).encode(("a", 1), {}).data
    args, kwargs = Parameters.of(later).decode(old, "json")
    assert later(*args, **kwargs) == ("a", 1, 9)


def test_mutable_defaults_stay_the_functions_own():
    def collect(item: int, into: list[int] = []) -> list[int]:  # noqa: B006
        return [*into, item]

    assert run(collect, 1) == run(collect, 1) == [1]
    assert run(collect, 1, [5]) == [5, 1]


def test_names_keep_the_functions_order_and_the_context_is_left_out():
    def task(ctx: "NotThere", a: int, *rest: str, b: int = 0, **more: Any) -> None: ...  # noqa: F821

    parameters = Parameters.of(task, skip_first=True)
    assert parameters.names == ("a", "rest", "b", "more")
    assert parameters.decode(b'{"a":1}', "json") == ((1,), {})


def test_large_payloads_are_compressed_and_limited():
    parameters = Parameters.of(resize)
    encoded = parameters.encode(("x" * 50_000, 1), {})
    assert encoded.codec == "json+zstd"
    assert parameters.decode(*encoded)[1]["path"] == "x" * 50_000
    with pytest.raises(PayloadTooLarge, match="payload of resize"):
        parameters.encode(("x" * 500, 1), {}, limit_bytes=100)
    with pytest.raises(PayloadTooLarge, match="payload of resize"):
        parameters.decode(*encoded, limit_bytes=1_000)


# -- every kind of parameter ------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_every_kind_of_parameter_arrives_where_it_was_given(format_):
    def every(a, /, b, c=3, *rest: int, d, e=5, **more: str):
        return a, b, c, rest, d, e, more

    assert run(every, 1, 2, d=4, codec=format_) == (1, 2, 3, (), 4, 5, {})
    assert run(every, 1, 2, 9, 7, 8, d=4, e=6, z="z", codec=format_) == (
        (1, 2, 9, (7, 8), 4, 6, {"z": "z"})
    )
    assert run(every, 1, b=2, d=4, a="other", codec=format_) == (1, 2, 3, (), 4, 5, {"a": "other"})


def test_a_positional_only_default_can_be_left_out():
    def spread(a=1, b=2, /, *, c=3):
        return a, b, c

    assert run(spread) == (1, 2, 3)
    assert run(spread, 5, c=4) == (5, 2, 4)


def test_a_later_default_can_be_given_without_an_earlier_one():
    def two(a: int = 1, b: int = 2) -> tuple[int, int]:
        return a, b

    assert run(two, b=5) == (1, 5)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_a_call_accepts_the_payload_carries(data):
    def every(a, b=2, *rest, c=3, **more):
        return a, b, rest, c, more

    args = data.draw(st.lists(st.integers(), min_size=1, max_size=5))
    names = st.sampled_from(["c", "x", "y", "self", "args", "class"])
    kwargs = data.draw(st.dictionaries(names, st.integers(), max_size=4))
    assert run(every, *args, **kwargs) == every(*args, **kwargs)


def test_unusual_names_work():
    def odd(self, cls, _x, args, kwargs, codec, name, func):
        return self, cls, _x, args, kwargs, codec, name, func

    parameters = Parameters.of(odd)
    encoded = parameters.encode(tuple(range(8)), {})
    assert odd(**parameters.decode(*encoded)[1]) == tuple(range(8))


def test_the_argument_of_a_wrapped_function_are_those_of_the_function_inside():
    @functools.wraps(resize)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return resize(*args, **kwargs)

    assert Parameters.of(wrapper).names == ("path", "width", "quality")
    with pytest.raises(CodecError):
        Parameters.of(wrapper).encode(("a", "b"), {})


# -- calls that do not fit --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        (("a",), {}, r"resize\(\) missing a required argument: 'width'"),
        (("a", 1), {"hight": 2}, r"resize\(\) got an unexpected keyword argument 'hight'"),
        (("a", 1, 2), {}, r"resize\(\) too many positional arguments"),
        (("a", 1), {"path": "b"}, r"resize\(\) multiple values for argument 'path'"),
    ],
)
def test_a_call_that_python_would_refuse_is_refused_in_the_same_words(args, kwargs, words):
    with pytest.raises(TypeError, match=words):
        Parameters.of(resize).encode(args, kwargs)


def test_a_positional_only_argument_is_refused_by_name():
    def first(a, /): ...

    with pytest.raises(TypeError, match="'a'"):
        Parameters.of(first).bind((), {"a": 1})


@pytest.mark.parametrize("format_", FORMATS)
def test_a_value_that_does_not_fit_is_an_error_of_the_call_that_made_it(format_):
    with pytest.raises(CodecError) as caught:
        Parameters.of(resize).encode(("a", "wide"), {}, codec=format_)
    for part in ("resize", "`width`", "Expected `int`", "got `str`", "'wide'"):
        assert part in str(caught.value)


def test_a_part_that_does_not_fit_is_named_by_its_path():
    def mail(to: list[Address], **options: int) -> None: ...

    with pytest.raises(CodecError, match=r"`to\[1\].zip_code`"):
        Parameters.of(mail).encode(([Address(1), {"zip_code": "x"}],), {})
    with pytest.raises(CodecError, match=r"`options\[\.\.\.\]`.*given \{'a': 1, 'b': 'x'\}"):
        Parameters.of(mail).encode(([],), {"a": 1, "b": "x"})


def test_a_shown_value_is_cut_short():
    with pytest.raises(CodecError) as caught:
        Parameters.of(resize).encode(("a", "wide" * 10_000), {})
    assert len(str(caught.value)) < 300


def test_text_for_bytes_is_refused_rather_than_read_as_base64():
    def store(raw: bytes, more: Annotated[bytes | None, "note"] = None) -> None: ...

    parameters = Parameters.of(store)
    with pytest.raises(CodecError, match="`raw`.*`bytes`, got `str`; given 'abcd'"):
        parameters.encode(("abcd",), {})
    with pytest.raises(CodecError, match="`more`"):
        parameters.encode((b"abcd", "abcd"), {})
    assert parameters.decode(b'{"raw":"AAE="}', "json") == ((), {"raw": b"\x00\x01"})


def test_a_value_that_cannot_be_encoded_is_named_by_its_argument():
    with pytest.raises(CodecError, match=r"payload of untyped: the object at `\$\.b\.x`"):
        Parameters.of(untyped).encode((1, {"x": object()}), {})
    with pytest.raises(CodecError, match=r"nan at `\$\.a`"):
        Parameters.of(untyped).encode((float("nan"),), {})


def test_the_check_can_be_left_out():
    assert Parameters.of(resize).encode(("a", "wide"), {}, check=False).data == (
        b'{"path":"a","width":"wide"}'
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"path":"a"}', "missing required field `width`"),
        (b'{"path":"a","width":1,"height":2}', "unknown field `height`"),
        (b'{"path":"a","width":"1"}', r"got `str` - at `\$.width`"),
        (b"[1,2]", "Expected `object`"),
        (b"{", "payload of resize"),
        (b"\xff", "payload of resize"),
    ],
)
def test_a_stored_payload_that_does_not_fit_says_why(data, words):
    with pytest.raises(CodecError, match=words):
        Parameters.of(resize).decode(data, "json")


# -- annotations ------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Address:
    zip_code: int


class Item(msgspec.Struct):
    price: decimal.Decimal


class Options(TypedDict, total=False):
    depth: int


class Point(typing.NamedTuple):
    x: int
    y: int


class User(pydantic.BaseModel):
    name: str
    home: Address


NOW = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


def everything(
    *,
    flag: bool,
    raw: bytes,
    colour: Colour,
    mode: Literal["fast", "slow"],
    at: dt.datetime,
    day: dt.date,
    hour: dt.time,
    every: dt.timedelta,
    id: uuid.UUID,  # noqa: A002
    price: decimal.Decimal,
    tags: set[str],
    pair: tuple[int, float],
    address: Address,
    item: Item,
    options: Options,
    point: Point,
    user: User,
    users: dict[str, User | None],
    note: Annotated[str, msgspec.Meta(max_length=5)],
    anything: Any,
    maybe: int | None = None,
):
    return dict(locals())


VALUES = {
    "flag": True,
    "raw": b"\x00",
    "colour": Colour.RED,
    "mode": "fast",
    "at": NOW,
    "day": NOW.date(),
    "hour": NOW.time(),
    "every": dt.timedelta(seconds=90),
    "id": uuid.UUID(int=7),
    "price": decimal.Decimal("0.10"),
    "tags": {"a"},
    "pair": (1, 2.0),
    "address": Address(5),
    "item": Item(decimal.Decimal(3)),
    "options": {"depth": 1},
    "point": Point(1, 2),
    "user": User(name="x", home=Address(1)),
    "users": {"a": User(name="y", home=Address(2)), "b": None},
    "note": "hi",
    "anything": [1, {"a": None}],
}


@pytest.mark.parametrize("format_", FORMATS)
def test_every_supported_annotation_brings_its_type_back(format_):
    got = run(everything, **VALUES, codec=format_)
    assert got == {**VALUES, "maybe": None}
    assert {name: type(value) for name, value in got.items()} == {
        **{name: type(value) for name, value in VALUES.items()},
        "maybe": type(None),
    }


def test_the_limits_of_an_annotation_are_checked():
    with pytest.raises(CodecError, match="length <= 5"):
        Parameters.of(everything).encode((), {**VALUES, "note": "longer"})


def test_variadic_parameters_may_be_annotated_with_a_typed_dict():
    def search(**options: Unpack[Options]) -> dict[str, int]:
        return dict(options)

    assert run(search, depth=3) == {"depth": 3}
    with pytest.raises(CodecError, match="depth"):
        Parameters.of(search).encode((), {"depth": "x"})


def test_a_name_that_is_defined_later_is_resolved_at_the_first_use():
    def early(x: "DefinedLater") -> "DefinedLater":  # noqa: F821
        return x

    parameters = Parameters.of(early)
    with pytest.raises(ConfigError, match="DefinedLater.*TYPE_CHECKING"):
        parameters.prepare()
    globals()["DefinedLater"] = int
    try:
        assert parameters.encode((1,), {}).data == b'{"x":1}'
        assert parameters.return_type is int
    finally:
        del globals()["DefinedLater"]


def test_an_unresolved_result_does_not_hinder_the_arguments():
    def half(x: int) -> "NotThere":  # noqa: F821
        return x

    parameters = Parameters.of(half)
    assert parameters.encode((1,), {}).data == b'{"x":1}'
    with pytest.raises(ConfigError, match="NotThere"):
        _ = parameters.return_type


def test_the_result_type_is_the_annotated_one():
    async def fetch() -> list[int]:
        return []

    def nothing() -> None: ...

    assert Parameters.of(resize).return_type is bytes
    assert Parameters.of(fetch).return_type == list[int]
    assert Parameters.of(nothing).return_type is type(None)
    assert Parameters.of(untyped).return_type is Any


# -- declarations that cannot work ------------------------------------------------------------


def test_an_annotation_that_nothing_decodes_into_is_named_at_declaration():
    def bad(ok: int, wrong: int | complex) -> None: ...

    with pytest.raises(ConfigError, match=r"bad: parameter 'wrong'"):
        Parameters.of(bad).prepare()


def test_a_name_that_cannot_be_stored_is_refused():
    def bad(__secret, /): ...

    with pytest.raises(ConfigError, match="'__secret'.*rename"):
        Parameters.of(bad)


@pytest.mark.parametrize("func", [lambda: None, lambda *args: None, lambda *, ctx: None])
def test_a_context_needs_a_first_positional_parameter(func):
    with pytest.raises(ConfigError, match="first parameter"):
        Parameters.of(func, skip_first=True)


def test_what_has_no_signature_is_refused():
    with pytest.raises(ConfigError, match="signature"):
        Parameters.of(dict)


# -- values for unique keys -------------------------------------------------------------------


def test_values_are_what_the_function_will_see_defaults_included():
    def scale(url: str, factor: float = 1.0, *rest: int, **more: int) -> None: ...

    values = Parameters.of(scale).values
    assert values(("a", 1), {}) == {"url": "a", "factor": 1.0, "rest": [], "more": {}}
    assert type(values(("a", 1), {})["factor"]) is float
    assert values(("a",), {}) == values((), {"url": "a", "factor": 1})
    with pytest.raises(CodecError, match="`url`"):
        values((1,), {})
