"""YAML as Dapr's reader has it: the expected values are those of sigs.k8s.io/yaml v1.4.0 (YAMLToJSON)."""

import json

import pytest

from sandboxd.files.yamltext import Mapping, Node, Scalar, Sequence, YamlError, parse


def plain(node: Node | None) -> object:
    match node:
        case Mapping(entries=entries):
            return {key: plain(value) for key, value in entries.items()}
        case Sequence(items=items):
            return [plain(item) for item in items]
        case Scalar(value=value):
            return value
    return None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("name:\turl", '{"name":"url"}'),
        ("a: b\t", '{"a":"b"}'),
        ("a: b\t# c", '{"a":"b"}'),
        ("spec:\t\n  x: 1", '{"spec":{"x":1}}'),
        ("a\tb: c", '{"a\\tb":"c"}'),
        ("a: b\tc", '{"a":"b\\tc"}'),
        ("a\t: b", '{"a":"b"}'),
        ('"a"\t: b', '{"a":"b"}'),
        ("k: |\t# c\n  x\n", '{"k":"x\\n"}'),
        ("k: >-\t\n  x\n  y\n", '{"k":"x y"}'),
        ("k: |2\n   x\n", '{"k":" x\\n"}'),
        ("[a,\tb]", '["a","b"]'),
        ("x: [a\t, b\t]", '{"x":["a","b"]}'),
        ("{a: b,\n\tc: d}", '{"a":"b","c":"d"}'),
        ("a: 'x'\t", '{"a":"x"}'),
        ('a: "x"\t# c', '{"a":"x"}'),
        ("a:\n  - b\t\n  - c", '{"a":["b","c"]}'),
        ("a: &x\tb", '{"a":"b"}'),
        ("a: &x b\nc: *x\t", '{"a":"b","c":"b"}'),
        # A colon within a flow collection ends a key only before a blank.
        ("{name: x, value:}", '{"name":"x","value:":null}'),
        ("[a:, b]", '["a:","b"]'),
        ("x: {a:b}", '{"x":{"a:b":null}}'),
        ('x: {"a":b}', '{"x":{"a":"b"}}'),
        ("a: b\n  c\n\n  d", '{"a":"b c\\nd"}'),
        ("a: b\u0085c: d", '{"a":"b","c":"d"}'),
    ],
)
def test_a_text_is_what_it_is_for_dapr(text: str, wanted: str) -> None:
    assert plain(parse(text).root) == json.loads(wanted)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\ta: b", 1), ("-\ta", 1), ("a:\t- b", 1), ("a:\n\t- b", 2), ("? a\n:\tb", 2), ("a:\tb: c", 1),
        ("a:\n  b\n\tc", 3), ("a: b\n\t\nc: d", 2), ("- a\n\t\n- b", 2), ("k: |\n  \tx\n y", 2), ("k: >\n\tx\n", 2),
    ],
)  # fmt: skip
def test_a_tab_is_no_indentation(text: str, line: int) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text)
    assert caught.value.line == line
