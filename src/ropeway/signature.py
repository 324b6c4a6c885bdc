"""A function's parameters to a payload and back.

The payload of a job is one object, parameter name -> value: any language can write it, and a
parameter with a default can be added while older jobs still wait. An argument that the caller
left out is left out of the payload, so that the function's own default applies when it runs.
`*args` is stored under its name as an array, `**kwargs` under its name as an object.
"""

import inspect
import re
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Self, cast

import msgspec

from ropeway import codec as codecs
from ropeway.codec import Encoded, Format
from ropeway.errors import CodecError, ConfigError

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD

# msgspec ends its messages with the place, " - at `$.name.rest`".
ITEM: Final = "item"
"""The name under which the payload of a batch task's job holds its item."""

_NAME = re.compile(r"\W")
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 60


class Parameters:
    """The parameters of one function, and their way into a payload and out of it.

    Annotations are resolved at the first use when they name something that is not defined yet
    (`prepare` does it now). Parameters without an annotation are `Any`.
    """

    def __init__(self, func: Callable[..., object], signature: inspect.Signature) -> None:
        """Use `Parameters.of`."""
        parameters = signature.parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        self._func = func
        self._signature = signature
        self._name = _name_of(func)
        self._what = f"payload of {self._name}"
        self._names = tuple(signature.parameters)
        self._plain = kinds <= {_POSITIONAL, _KEYWORD}
        self._all_required = all(_is_required(parameter) for parameter in parameters)
        self._decoders: dict[str, Callable[[bytes], msgspec.Struct]] = {}  # by codec, once used

    @classmethod
    def of(cls, func: Callable[..., object], *, skip_first: bool = False) -> Self:
        """Read the parameters of `func`; `skip_first` leaves out the first, an injected context.

        Raises `ConfigError` when `func` has no signature, no first positional parameter to
        skip, or a parameter that cannot be stored.
        """
        try:
            signature = inspect.signature(func)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{func!r} has no signature that can be read; wrap it in a function ({error})"
            ) from error
        parameters = list(signature.parameters.values())
        name = _name_of(func)
        if skip_first:
            if not parameters or parameters[0].kind not in {_POSITIONAL_ONLY, _POSITIONAL}:
                raise ConfigError(
                    f"{name}: its first parameter must be positional, to take the context"
                )
            signature = signature.replace(parameters=parameters[1:])
        for parameter in signature.parameters:
            if parameter.startswith("__"):
                raise ConfigError(
                    f"{name}: the parameter {parameter!r} cannot be stored; names may not begin "
                    "with two underscores, rename it"
                )
        return cls(func, signature)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in the function's order."""
        return self._names

    @cached_property
    def return_type(self) -> Any:
        """The resolved return annotation; `Any` without one. Raises `ConfigError`."""
        return self._resolve({"return": self._signature.return_annotation})["return"]

    def prepare(self, codec: Format = "json") -> None:
        """Resolve the annotations now; `ConfigError` if one cannot be found or ever decoded."""
        try:
            codecs.require_decodable(self._payload, codec, what=self._name)
        except ConfigError:
            for name, type_ in self._types.items():
                codecs.require_decodable(type_, codec, what=f"{self._name}: parameter {name!r}")
            raise

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> msgspec.Struct:
        """Assign arguments to parameters; those left out are `msgspec.UNSET`.

        Raises `TypeError` for missing, unknown and surplus arguments, as a call would.
        """
        if self._plain:
            try:
                return self._payload(*args, **kwargs)
            except TypeError:
                pass  # the slow way words the error as Python does
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() {error}") from None
        return self._payload(**bound.arguments)

    def encode(
        self,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        *,
        codec: Format = "json",
        compress_above_bytes: int | None = codecs.COMPRESS_ABOVE_BYTES,
        limit_bytes: int = codecs.STORED_MAX_BYTES,
        check: bool = True,
    ) -> Encoded:
        """Bind the arguments and encode them; sizes as in `codec.encode`.

        `check` reads the payload back into the annotated types, so that a value which does not
        fit is an error here, at the call that made it, and not in the worker.

        Raises `TypeError` as a call would, `CodecError` for a value that does not fit its
        annotation or cannot be encoded, `PayloadTooLarge`, and `ConfigError` for annotations
        that cannot be resolved.
        """
        payload = self.bind(args, kwargs)
        data = codecs.serialize(payload, codec, what=self._what)
        if check:
            self._check(payload, data, codec)
        return codecs.pack(
            data,
            codec,
            compress_above_bytes=compress_above_bytes,
            limit_bytes=limit_bytes,
            what=self._what,
        )

    def decode(
        self, data: bytes, codec: str, *, limit_bytes: int = codecs.DECODED_MAX_BYTES
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return `(args, kwargs)` for `func(*args, **kwargs)`, without the skipped context.

        Raises `CodecError` for broken bytes, and for missing, unknown and misfit arguments.
        """
        payload = self._read(data, codec, limit_bytes)
        if self._plain and self._all_required:
            return (), msgspec.structs.asdict(payload)
        given = self._given(payload)
        if self._plain:
            return (), given
        return self._to_call(given)

    def filled(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, with the defaults of those that were left out."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.args, bound.kwargs

    def require_same_call(self, func: Callable[..., object], *, skip_first: bool) -> None:
        """Raise `TypeError` unless `func` can be called with whatever `filled` returns."""
        signature = inspect.signature(func)
        accepted = list(signature.parameters.values())[skip_first:]
        kinds = {parameter.kind for parameter in accepted}
        args: list[None] = []
        kwargs: dict[str, None] = {}
        for name, parameter in self._signature.parameters.items():
            if parameter.kind in {_VAR_POSITIONAL, _VAR_KEYWORD}:
                if parameter.kind not in kinds:
                    raise TypeError(f"it does not take any number of arguments, as {name!r} does")
            elif parameter.kind is _KEYWORD:
                kwargs[name] = None
            else:
                args.append(None)
        signature.replace(parameters=accepted).bind(*args, **kwargs)

    def _read(self, data: bytes, codec: str, limit_bytes: int) -> msgspec.Struct:
        """The payload; every job takes the short way, and what it cannot read the long one."""
        if len(data) <= limit_bytes:
            try:
                return self._decoders[codec](data)
            except Exception:  # noqa: BLE001, S110 - the long way says what is wrong
                pass
        payload = codecs.decode(
            data, codec, self._payload, limit_bytes=limit_bytes, what=self._what
        )
        if codec in {"json", "msgpack"}:
            self._decoders[codec] = codecs.decoder(codec, self._payload, what=self._what)
        return payload

    def given(self, name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """What the caller gave for one parameter, as it is; its default if it was left out."""
        value = getattr(self.bind(args, kwargs), name)
        if value is msgspec.UNSET:
            return _default(self._signature.parameters[name])
        return value

    def values(
        self, args: Sequence[object], kwargs: Mapping[str, object], *, codec: Format = "json"
    ) -> dict[str, Any]:
        """Return every argument as the function will see it, defaults included, by name.

        Values pass through their annotated types: `1` for a `float` is `1.0`, so that calls
        which mean the same have the same unique key. Raises as `encode` does.
        """
        payload = self.bind(args, kwargs)
        data = codecs.serialize(payload, codec, what=self._what)
        given = self._given(self._check(payload, data, codec))
        return {
            name: given[name] if name in given else _default(parameter)
            for name, parameter in self._signature.parameters.items()
        }

    def _check(self, payload: msgspec.Struct, data: bytes, codec: Format) -> msgspec.Struct:
        for name in self._bytes_names:
            # A str would be taken for base64, and arrive as other bytes or not at all.
            if isinstance(given := getattr(payload, name), str):
                raise self._misfit("Expected `bytes`, got `str`", name, given)
        try:
            return cast(msgspec.Struct, codecs.deserialize(data, codec, self._payload, self._what))
        except CodecError as error:
            reason, _, path = str(error.__cause__).partition(" - at `$.")
            if not path:
                raise
            name = _NAME.split(path, maxsplit=1)[0]
            raise self._misfit(reason, path.rstrip("`"), getattr(payload, name, None)) from error

    def _misfit(self, reason: str, path: str, given: object) -> CodecError:
        return CodecError(
            f"{self._name}: the argument `{path}` does not fit its annotation: {reason}; "
            f"given {_SHOWN.repr(given)}"
        )

    def _given(self, payload: msgspec.Struct) -> dict[str, Any]:
        values = msgspec.structs.asdict(payload)
        if self._all_required:
            return values
        return {name: value for name, value in values.items() if value is not msgspec.UNSET}

    def _to_call(self, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Split what was given for a function with `/`, `*args` or `**kwargs`."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        parameters = self._signature.parameters.values()
        by_position = any(parameter.kind is _VAR_POSITIONAL for parameter in parameters)
        for parameter in parameters:
            name, kind = parameter.name, parameter.kind
            if kind is _POSITIONAL_ONLY or (kind is _POSITIONAL and by_position):
                # A later one can only be reached when this one is filled.
                args.append(given.get(name, parameter.default))
            elif kind is _VAR_POSITIONAL:
                args.extend(given.get(name, ()))
            elif kind is _VAR_KEYWORD:
                kwargs.update(given.get(name, {}))
            elif name in given:
                kwargs[name] = given[name]
        return tuple(args), kwargs

    # -- types --------------------------------------------------------------------------------

    @cached_property
    def _types(self) -> dict[str, Any]:
        parameters = self._signature.parameters
        hints = self._resolve({name: item.annotation for name, item in parameters.items()})
        return {name: _stored_type(parameters[name].kind, hints[name]) for name in parameters}

    @cached_property
    def _bytes_names(self) -> tuple[str, ...]:
        return tuple(name for name, type_ in self._types.items() if _wants_bytes(type_))

    @cached_property
    def _payload(self) -> type[msgspec.Struct]:
        """The struct that a payload decodes into: one pass checks names and types.

        It takes positional and keyword arguments where the function does, so that binding is
        one call into C.
        """
        plain: list[tuple[str, Any, Any]] = []
        by_name: list[tuple[str, Any, Any]] = []
        for name, parameter in self._signature.parameters.items():
            default = msgspec.NODEFAULT if _is_required(parameter) else msgspec.UNSET
            is_plain = self._plain and parameter.kind is _POSITIONAL
            (plain if is_plain else by_name).append((name, self._types[name], default))
        base = msgspec.defstruct("Payload", plain, forbid_unknown_fields=True)
        if not by_name:
            return base
        return msgspec.defstruct(
            "Payload", by_name, bases=(base,), kw_only=True, forbid_unknown_fields=True
        )

    def _resolve(self, annotations: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate annotations where the function was defined; those left out are `Any`."""

        def annotated() -> None: ...

        missing = inspect.Parameter.empty
        annotated.__annotations__ = {
            name: Any if annotation is missing else annotation
            for name, annotation in annotations.items()
        }
        func = inspect.unwrap(self._func)
        try:
            return typing.get_type_hints(
                annotated, globalns=getattr(func, "__globals__", {}), include_extras=True
            )
        except Exception as error:
            raise ConfigError(
                f"{self._name}: its annotations cannot be resolved ({error}); define or import "
                "the types at the top of its module, outside `if TYPE_CHECKING`"
            ) from error


class ItemParameters(Parameters):
    """The one parameter of a batch task's jobs, `item`; its function takes the list of them."""

    def __init__(self, func: Callable[..., object], signature: inspect.Signature) -> None:
        """Use `ItemParameters.of`."""
        given = list(signature.parameters.values())
        if len(given) != 1 or given[0].kind not in {_POSITIONAL_ONLY, _POSITIONAL}:
            raise ConfigError(
                f"{_name_of(func)}: a batch task takes one argument, the list of its items, as in "
                "`items: list[str]`"
            )
        missing = inspect.Parameter.empty
        item = given[0].replace(name=ITEM, kind=_POSITIONAL, default=missing)
        super().__init__(func, signature.replace(parameters=[item]))

    @cached_property
    def item_type(self) -> Any:
        """The resolved type of one item; `Any` without an annotation. Raises `ConfigError`."""
        whole = self._whole()
        if whole is Any or whole is list:
            return Any
        if (items := _items_of(whole)) is None:
            raise ConfigError(
                f"{self._name}: its items are annotated as {whole!r}; a batch task takes a list, "
                "as in `items: list[str]`"
            )
        return items

    @property
    def item_type_if_known(self) -> Any:
        """`item_type`, or `Any` while its annotation names something not defined yet."""
        try:
            self._whole()
        except ConfigError:  # the worker insists on it
            return Any
        return self.item_type

    def _whole(self) -> Any:
        return self._resolve({ITEM: self._signature.parameters[ITEM].annotation})[ITEM]

    @cached_property
    def return_type(self) -> Any:
        """The type of one item's result: without the errors that stand for failed items."""
        whole = self._resolve({"return": self._signature.return_annotation})["return"]
        found: list[Any] = []
        for each in _union(whole):
            parts = _union(_items_of(each) or each)
            found += [part for part in parts if not _is_error(part)]
        return typing.Union[tuple(found)] if found else type(None)  # noqa: UP007 - of a list

    @cached_property
    def _types(self) -> dict[str, Any]:
        return {ITEM: self.item_type}


def _items_of(type_: Any) -> Any:
    """The type of what a list of this type holds; None when it is no list."""
    arguments = typing.get_args(type_)
    return arguments[0] if typing.get_origin(type_) in _LISTS and arguments else None


def _is_error(type_: Any) -> bool:
    return isinstance(type_, type) and issubclass(type_, BaseException)


_LISTS: Final = frozenset({list, Sequence, Collection, Iterable})


def _union(type_: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(type_) in {typing.Union, types.UnionType}
    return typing.get_args(type_) if is_union else (type_,)


def _name_of(func: Callable[..., object]) -> str:
    name: str = getattr(func, "__qualname__", "") or repr(func)
    return name.rpartition("<locals>.")[2]


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in {
        _VAR_POSITIONAL,
        _VAR_KEYWORD,
    }


def _wants_bytes(type_: Any) -> bool:
    if typing.get_origin(type_) in {typing.Union, types.UnionType, typing.Annotated}:
        return any(_wants_bytes(part) for part in typing.get_args(type_))
    return type_ is bytes or type_ is bytearray or type_ is memoryview


def _default(parameter: inspect.Parameter) -> object:
    if parameter.kind is _VAR_POSITIONAL:
        return []
    if parameter.kind is _VAR_KEYWORD:
        return cast(dict[str, object], {})
    return parameter.default


def _stored_type(kind: object, hint: Any) -> Any:
    """The type under which a parameter is stored: `*args: int` is `list[int]`, and so on."""
    if kind not in {_VAR_POSITIONAL, _VAR_KEYWORD}:
        return hint
    if typing.get_origin(hint) is typing.Unpack:
        return typing.get_args(hint)[0]
    if isinstance(hint, typing.ParamSpecArgs | typing.ParamSpecKwargs):
        hint = Any
    return list[hint] if kind is _VAR_POSITIONAL else dict[str, hint]
