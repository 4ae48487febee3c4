"""Values that break whatever is not built for them, for the tests of everything that content passes through."""

from __future__ import annotations

import datetime as dt
import enum
from collections import UserDict, deque, namedtuple
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NoReturn
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel, Field, SecretStr


class Broken:
    """Nothing about it works."""

    def __repr__(self) -> NoReturn:
        raise RuntimeError("no repr")

    __str__ = __repr__

    def __iter__(self) -> NoReturn:
        raise RuntimeError("no iter")

    def __len__(self) -> NoReturn:
        raise RuntimeError("no len")

    def __bool__(self) -> NoReturn:
        raise RuntimeError("no bool")

    def __eq__(self, other: object) -> NoReturn:
        raise RuntimeError("no eq")

    def __hash__(self) -> int:
        return 7

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"no {name}")


class BrokenDict(dict[str, Any]):
    """Its own methods fail; the dict that it is does not."""

    def items(self) -> NoReturn:
        raise RuntimeError("no items")

    __iter__ = keys = values = items


class BrokenMapping(UserDict[str, Any]):
    """A mapping that is no dict, and fails half way."""

    def __iter__(self) -> Iterator[str]:
        yield "a"
        raise RuntimeError("no more")

    def __len__(self) -> int:
        return 3


class BrokenList(list[Any]):
    """Its length lies, its iterator fails."""

    def __len__(self) -> int:
        return -1

    def __iter__(self) -> NoReturn:
        raise RuntimeError("no iter")


class Endless(Sequence[int]):
    """It says that it is short, and never ends."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return 1

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 1


class Text(str):
    """A str whose own methods fail."""

    __slots__ = ()

    def __str__(self) -> NoReturn:
        raise RuntimeError("no str")

    __repr__ = __str__


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Record:
    name: str = "record"
    inner: Any = None
    many: list[Any] = field(default_factory=lambda: [1, 2])


class Model(BaseModel):
    name: str = "model"
    password: SecretStr = SecretStr("s3cr3tstr")
    hidden: str = Field(default="excluded-content", exclude=True)
    inner: Any = None


Point = namedtuple("Point", "x y")  # noqa: PYI024 - the untyped one is what people have


def cycle() -> list[Any]:
    """A list that holds itself, and a dict that holds it."""
    found: list[Any] = [1]
    found.append({"again": found})
    return found


def deep(levels: int = 2000) -> Any:
    """A list in a list in a list."""
    found: Any = "bottom"
    for _ in range(levels):
        found = [found]
    return found


def oddities() -> list[Any]:
    """One of each."""
    return [
        Broken(),
        BrokenDict(a=1),
        BrokenMapping(a=1),
        BrokenList([1, 2]),
        Endless(),
        Text("text"),
        cycle(),
        deep(),
        Colour.RED,
        Colour.BLUE,
        Level.HIGH,
        Record(inner=Record()),
        Model(inner=Record()),
        Point(1, Broken()),
        deque([1, 2]),
        range(10**9),
        10**5000,
        -(10**30),
        1 << 63,
        float("nan"),
        float("-inf"),
        1e308,
        Decimal("1.50"),
        Decimal("NaN"),
        UUID(int=7),
        PurePosixPath("/tmp/x"),
        dt.datetime(2026, 11, 21, 10, 11, 12, tzinfo=dt.UTC),
        dt.date(2026, 11, 21),
        dt.time(10, 11),
        dt.timedelta(seconds=90),
        b"bytes",
        b"\xff\xfe",
        bytearray(b"ab"),
        memoryview(b"ab"),
        {1, 2, 3},
        frozenset({"a"}),
        {1: "int", "1": "str", None: "none", (1, 2): "tuple", Broken(): "broken", b"k": "bytes"},
        (item for item in range(3)),
        ValueError("what happened"),
        object(),
        dict,
        len,
        lambda: None,
        "\ud800 lone",
        "\ud83d\ude00 halves",
        {"\udfff": "\udc00"},
        "\x00\x1b[31m",
        "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ñ 中文",
        complex(1, 2),
        ...,
        NotImplemented,
    ]


#: Texts with lone surrogates and everything else in them.
texts = st.text(st.characters(exclude_categories=()), max_size=200)

_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.binary(max_size=50)
    | st.datetimes()
    | st.decimals()
    | st.uuids()
    | st.integers(0, len(oddities()) - 1).map(lambda index: oddities()[index])
    | st.integers(1, 5000).map(lambda length: 'x\n"\u20ac' * length)
)

#: Whatever an application may hand over as content.
values: st.SearchStrategy[Any] = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(texts | st.integers() | st.none() | st.binary(max_size=4), inner, max_size=6)
        | st.tuples(inner, inner)
        | st.builds(Record, inner=inner)
        | st.builds(Model, inner=inner)
        | st.sets(st.integers() | texts, max_size=4)
        | st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", 7, None]), "content": inner}),
            max_size=5,
        )
    ),
    max_leaves=25,
)
