"""Frames between processes: whole, in pieces, and broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.limits import EngineSettings, Limits
from sandboxd.outcome import Outcome
from sandboxd.wire import codec
from sandboxd.wire import messages as m

ARGS = st.lists(st.binary(max_size=40), max_size=4).map(tuple)
PAIRS = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=3).map(tuple)
INVOKES = st.builds(
    m.Invoke,
    id=st.integers(0, 2**63),
    guest=st.integers(0, 1000),
    call=st.builds(
        m.Call,
        deadline_ns=st.integers(0, 2**63 - 1),
        args=ARGS,
        env=PAIRS,
        stdin=st.binary(max_size=2000),
    ),
)


@given(st.lists(INVOKES, max_size=5), st.data())
def test_messages_survive_any_cutting_of_the_stream(messages: list[m.Invoke], data: st.DataObject) -> None:
    stream = b"".join(codec.encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = codec.Decoder(codec.ToWorker)
    out: list[m.Invoke] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        out += decoder.feed(stream[start:end])
    assert out == messages
    assert repr(decoder) == "<Decoder holding 0 bytes>"


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x91\xa5spawn", b"\x92\xa5spawn\xa1x", b"\x91\xa1\x80", b"\x92\xa5sp\x80wn\x01", b"\x91" * 5000],
)
def test_a_body_that_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(codec.ProtocolError):
        codec.Decoder(codec.ToZygote).feed(codec.HEADER.pack(len(body)) + body)


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error_or_an_unfinished_frame(data: bytes) -> None:
    decoder = codec.Decoder(codec.FromWorker)
    try:
        decoded = decoder.feed(data)
    except codec.ProtocolError:
        return
    assert all(isinstance(message, m.Ready | m.Result | m.Skipped) for message in decoded)


def test_every_message_to_the_front_comes_back_equal() -> None:
    result = m.Result(
        id=7,
        outcome=Outcome.TRAPPED,
        stdout=b"out",
        detail="wasm error: unreachable",
        stderr=b"err",
        stderr_total=3,
        guest_ns=5,
        outbound=(m.OutboundUsage(rule="*", outcome="ok", duration_ns=9),),
        http=m.HttpResponse(status=200, headers=((b"a", b"b"),)),
    )
    decoder = codec.Decoder(codec.FromWorker)
    assert decoder.feed(codec.encode(m.Ready(1)) + codec.encode(result) + codec.encode(m.Skipped(3))) == [
        m.Ready(1),
        result,
        m.Skipped(3),
    ]


def test_settings_reach_the_zygote_unchanged() -> None:
    load = m.Load(
        engine=EngineSettings(max_memories=3),
        outbound=m.OutboundSettings(block_networks=("private",)),
        guests=(m.GuestSpec(binding="a", kind="module", artifact="/x", argv0=b"a", limits=Limits(timeout_ms=5)),),
    )
    assert codec.Decoder(codec.ToZygote).feed(codec.encode(load)) == [load]


def test_a_frame_that_announces_too_much_is_refused_before_it_is_stored() -> None:
    decoder = codec.Decoder(codec.FromWorker)
    with pytest.raises(codec.ProtocolError, match="announced"):
        decoder.feed((codec.MAX_FRAME_BYTES + 1).to_bytes(4, "little"))


def test_a_message_of_the_other_direction_is_refused() -> None:
    with pytest.raises(codec.ProtocolError, match="does not decode"):
        codec.Decoder(codec.ToWorker).feed(codec.encode(m.Ready(1)))


def test_a_large_frame_in_many_pieces() -> None:
    invoke = m.Invoke(id=1, guest=0, call=m.Call(deadline_ns=0, stdin=b"x" * 3_000_000))
    stream = codec.encode(invoke)
    decoder = codec.Decoder(codec.ToWorker)
    out = [message for at in range(0, len(stream), 65_536) for message in decoder.feed(stream[at : at + 65_536])]
    assert out == [invoke]
