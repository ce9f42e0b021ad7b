"""YAML with bounds. Number texts are those Go's strconv.FormatFloat and encoding/json write."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxd.files.yamltext import (
    MAX_DEPTH,
    MAX_NODES,
    Mapping,
    Scalar,
    Sequence,
    YamlError,
    parse,
)
from sandboxd.gojson.floats import general_float, json_float


def value_of(text: str) -> object:
    root = parse("- " + text).root
    assert isinstance(root, Sequence)
    node = root.items[0]
    assert isinstance(node, Scalar)
    return node.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y", True),
        ("yes", True),
        ("On", True),
        ("n", False),
        ("off", False),
        ("true", True),
        ("tRue", "tRue"),
        ("~", None),
        ("null", None),
        ("1", 1),
        ("-12", -12),
        ("0x1F", 31),
        ("017", 15),
        ("0o17", 15),
        ("0b101", 5),
        ("1_000", 1000),
        ("08", 8.0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", 2.0**64),
        ("0X1f", 31),
        ("-0B11", -3),
        ("1e999", "1e999"),
        (".5_0", ".5_0"),
        ("1:30", "1:30"),
        ("2001-12-14", "2001-12-14"),
        ("v1", "v1"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ("!!float 1", 1.0),
        ("0x", "0x"),
        ("+-1", "+-1"),
    ],
)
def test_plain_scalars_as_dapr_resolves_them(text: str, expected: object) -> None:
    value = value_of(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("value", "json_text", "go_text"),
    [
        (1.0, "1", "1"),
        (0.0, "0", "0"),
        (-0.0, "-0", "-0"),
        (1.5, "1.5", "1.5"),
        (100000.0, "100000", "100000"),
        (1234567.0, "1234567", "1.234567e+06"),
        (1e20, "100000000000000000000", "1e+20"),
        (1e21, "1e+21", "1e+21"),
        (1e-6, "0.000001", "1e-06"),
        (1e-7, "1e-7", "1e-07"),
        (0.0001, "0.0001", "0.0001"),
        (0.00001, "0.00001", "1e-05"),
        (-2.5e-10, "-2.5e-10", "-2.5e-10"),
        (1.7976931348623157e308, "1.7976931348623157e+308", "1.7976931348623157e+308"),
    ],
)
def test_floats_as_go_writes_them(value: float, json_text: str, go_text: str) -> None:
    assert json_float(value) == json_text
    assert general_float(value) == go_text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float_texts_mean_the_float(value: float) -> None:
    assert float(json_float(value)) == value
    assert float(general_float(value)) == value


def test_lines_are_those_of_the_file() -> None:
    root = parse("a: 1\nb:\n  c: 2\n", first_line=10).root
    assert isinstance(root, Mapping)
    assert root.key_lines == {"a": 10, "b": 11}
    assert root.entries["b"].line == 12


def test_of_repeated_keys_the_last_wins_and_is_told() -> None:
    document = parse("a: 1\na: 2\n")
    assert isinstance(document.root, Mapping)
    assert document.root.entries["a"] == Scalar(2, "2", 2)
    assert document.duplicates == [("a", 2)]


def test_anchors_and_merge_keys() -> None:
    root = parse("base: &b {x: 1, z: 2}\nmore:\n  <<: *b\n  z: 3\nagain: *b\n").root
    assert isinstance(root, Mapping)
    more = root.entries["more"]
    assert isinstance(more, Mapping)
    assert {key: node.value for key, node in more.entries.items() if isinstance(node, Scalar)} == {"x": 1, "z": 3}
    assert root.entries["again"] is root.entries["base"]


def test_billion_laughs_are_bounded() -> None:
    levels = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(YamlError, match=str(MAX_NODES)) as caught:
        parse("\n".join(levels))
    assert caught.value.line == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 5000, "nested deeper"),
        ("- " * (MAX_DEPTH + 2), "nested deeper"),
        ("a: &a [*a]", "is inside the value to which it refers"),
        ("a: *b", "refers to nothing"),
        ("!!python/object/apply:os.system [id]", "not allowed"),
        ("!!binary aGk=", "not allowed"),
        ("!local x", "not allowed"),
        ("!!int x", "is not the int"),
        ("? [a]\n: 1", "a key is a list"),
        ("~: 1", "a key is nothing"),
        ("a: b: c", "not YAML"),
        ("a: \t- b\n- c", "not YAML"),
        ('"\\UFFFFFFFF"', "not YAML"),
        ('"\\ud800"', "surrogate"),
        ("a\x00b", "#x0000"),
        ("<<: 1", "<< needs"),
        ("%YAML 99999999999999999999.1\n---\na", "not YAML"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=message):
        parse(text)


@settings(max_examples=150)
@given(st.text(alphabet=st.sampled_from(list("ab:-[]{}&*!|>'\"#%@,?~<\\ \n\t0.1eUx\x85")), max_size=80))
def test_any_text_is_a_document_or_a_yaml_error(text: str) -> None:
    with contextlib.suppress(YamlError):
        parse(text)


@given(st.text(max_size=60))
def test_any_unicode_is_a_document_or_a_yaml_error(text: str) -> None:
    with contextlib.suppress(YamlError):
        parse(text)
