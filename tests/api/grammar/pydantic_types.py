"""Types as users of Pydantic describe answers and arguments, each with a value that conforms."""

import datetime
import decimal
import enum
import ipaddress
import pathlib
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

import annotated_types
from pydantic import (
    AnyUrl,
    AwareDatetime,
    Base64Str,
    BaseModel,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    FutureDate,
    HttpUrl,
    Json,
    JsonValue,
    NaiveDatetime,
    NegativeInt,
    NonNegativeFloat,
    PastDate,
    PositiveInt,
    RootModel,
    SecretStr,
    StrictBool,
    StrictInt,
    StringConstraints,
    Tag,
    computed_field,
    conlist,
)
from typing_extensions import TypedDict


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict, total=False):
    verbose: bool
    depth: int


@dataclass
class Pair:
    left: str
    right: str = "r"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str] = []


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    age: int | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Aliased(BaseModel):
    first_name: str = Field(alias="firstName", description="d", examples=["e"])


class Tree(BaseModel):
    value: int
    children: "list[Tree]" = []


class Node(BaseModel):
    next: "Node | None" = None


class Computed(BaseModel):
    width: int

    @computed_field
    def area(self) -> int:
        return self.width**2


class Bounds(BaseModel):
    score: Annotated[float, Field(ge=0, le=1)]
    count: Annotated[int, Field(gt=0, lt=100, multiple_of=5)]
    name: Annotated[str, StringConstraints(min_length=2, max_length=8, pattern="^[a-z]+$")]
    tags: Annotated[list[str], Field(min_length=1, max_length=3)]


class Order(BaseModel):
    pet: Cat | Dog = Field(discriminator="kind")
    note: str | None = Field(None, max_length=5)
    colours: dict[Colour, int] = {}


class Ids(RootModel[list[uuid.UUID]]):
    pass


class Names(RootModel[dict[str, str]]):
    pass


def kind_of(value: Any) -> str:
    return str(value["kind"] if isinstance(value, dict) else value.kind)


UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
Tagged = Annotated[Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")], Discriminator(kind_of)]

# Each with a value as JSON that conforms.
TYPES: list[tuple[Any, Any]] = [
    (str, "a"),
    (int, 3),
    (float, 1.5),
    (bool, True),
    (None, None),
    (Any, {"a": [1, None]}),
    (object, "x"),
    (bytes, "x"),
    (decimal.Decimal, "1.5"),
    (complex, "1j"),
    (datetime.datetime, "2026-11-30T10:00:00Z"),
    (datetime.date, "2026-11-30"),
    (datetime.time, "10:00:00Z"),
    (datetime.timedelta, "P1D"),
    (AwareDatetime, "2026-11-30T10:00:00Z"),
    (NaiveDatetime, "2026-11-30T10:00:00Z"),
    (PastDate, "2000-01-01"),
    (FutureDate, "2099-01-01"),
    (uuid.UUID, UUID),
    (pathlib.Path, "/tmp"),
    (ipaddress.IPv4Address, "127.0.0.1"),
    (ipaddress.IPv6Address, "::1"),
    (ipaddress.IPv4Network, "10.0.0.0/8"),
    (AnyUrl, "ftp://a.b/c"),
    (HttpUrl, "https://a.b/c"),
    (SecretStr, "s"),
    (Base64Str, "YQ=="),
    (ByteSize, 5),
    (Json, "1"),
    (JsonValue, {"a": 1}),
    (StrictInt, 1),
    (StrictBool, False),
    (PositiveInt, 1),
    (NegativeInt, -1),
    (NonNegativeFloat, 0.0),
    (Literal["a"], "a"),
    (Literal["a", "b", 3, None], 3),
    (Colour, "red"),
    (Level, 2),
    (Optional[int], None),  # noqa: UP045
    (Union[int, str], "a"),  # noqa: UP007
    (str | int | None, 5),
    (list, [1, "a"]),
    (list[int], [1, 2]),
    (list[list[str]], [["a"], []]),
    (set[str], ["a", "b"]),
    (frozenset[int], [1]),
    (deque[int], [1]),
    (tuple, [1]),
    (tuple[int, str], [1, "a"]),
    (tuple[int, ...], [1, 2]),
    (tuple[()], []),
    (dict, {"a": 1}),
    (dict[str, int], {"a": 1}),
    (dict[str, list[float]], {"a": [1.5]}),
    (dict[int, str], {"1": "a"}),
    (dict[Colour, int], {"red": 1}),
    (dict[Literal["x", "y"], bool], {"x": True}),
    (dict[Annotated[str, StringConstraints(pattern="^k")], int], {"k1": 1}),
    (dict[Annotated[str, StringConstraints(min_length=2)], int], {"ab": 1}),
    (dict[uuid.UUID, int], {UUID: 1}),
    (OrderedDict[str, int], {"a": 1}),
    (Annotated[str, Field(min_length=2, max_length=3)], "ab"),
    (Annotated[str, Field(pattern=r"^\d{3}-\d{4}$")], "123-4567"),
    (Annotated[str, StringConstraints(to_lower=True)], "a"),
    (Annotated[int, annotated_types.Interval(ge=1, lt=5)], 4),
    (Annotated[int, Field(multiple_of=3)], 6),
    (Annotated[float, Field(gt=0)], 0.5),
    (Annotated[list[int], annotated_types.Len(2, 2)], [1, 2]),
    (Annotated[dict[str, int], Field(min_length=1)], {"a": 1}),
    (Annotated[str, Field(json_schema_extra={"pattern": "^(?=a)a+$"})], "aa"),
    (Annotated[str, Field(json_schema_extra={"format": "color"})], "red"),
    (conlist(int, min_length=1), [1]),
    (Point, [1, 2.5]),
    (Options, {"verbose": True}),
    (Pair, {"left": "a"}),
    (Cat, {"kind": "cat"}),
    (Strict, {"name": "a", "age": None}),
    (Open, {"name": "a", "more": 1}),
    (Aliased, {"firstName": "a"}),
    (Tree, {"value": 1, "children": [{"value": 2}]}),
    (Node, {"next": {"next": None}}),
    (Computed, {"width": 2}),
    (Bounds, {"score": 0.5, "count": 10, "name": "abc", "tags": ["a"]}),
    (Order, {"pet": {"kind": "dog", "tricks": ["sit"]}, "note": None, "colours": {"blue": 1}}),
    (Ids, [UUID]),
    (Names, {"a": "b"}),
    (Pet, {"kind": "cat", "lives": 1}),
    (Tagged, {"kind": "dog"}),
    (list[Pet], [{"kind": "cat"}, {"kind": "dog"}]),
    (dict[str, Pet], {"a": {"kind": "cat"}}),
    (Pet | None, None),
]
