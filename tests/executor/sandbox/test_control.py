"""The host's end of a control socket: what it holds for a sandbox and from it, whatever the sandbox does."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from executor.sandbox import protocol
from executor.sandbox.control import PART_BYTES, READ_BYTES, ControlSocket
from executor.sandbox.protocol import Output, Turn, encode_message

MIB = 1024 * 1024


def play(scenario, *, frame_bytes_max: int = MIB) -> None:
    async def main() -> None:
        mine, theirs = socket.socketpair()
        control = ControlSocket(mine, frame_bytes_max=frame_bytes_max)
        with trio.fail_after(30), theirs:
            await scenario(control, theirs)
            control.close()
            control.close()

    trio.run(main)


def turn(run: int) -> bytes:
    return encode_message([Turn(run, 0, [], idle=True)])


def line(size: int) -> bytes:
    return encode_message([Output(1, 0, 0, 0, "log", "", "", 0, "x" * size)])


def test_message_that_fits_is_sent_without_a_wait() -> None:
    async def scenario(control, theirs) -> None:
        with trio.testing.assert_no_checkpoints():
            await control.send(b"one")
            await control.send(b"two")
        assert theirs.recv(100) == b"onetwo"
        assert control.blocked_since_s is None

    play(scenario)


def test_messages_that_came_together_are_received_together_whatever_their_pieces() -> None:
    async def scenario(control, theirs) -> None:
        data = turn(1) + turn(2) + line(1000) + turn(3)
        theirs.send(data[:-5])
        assert [frame.run for frame in await control.receive()] == [1, 2, 1]
        assert control.held_bytes == len(turn(3)) - 5
        theirs.send(data[-5:])
        assert await control.receive() == [Turn(3, 0, [], idle=True)]
        assert control.held_bytes == 0
        for byte in turn(4):
            theirs.send(bytes((byte,)))
        assert await control.receive() == [Turn(4, 0, [], idle=True)]
        theirs.close()
        assert await control.receive() == []

    play(scenario)


def test_sandbox_that_takes_nothing_holds_up_its_senders_and_no_more_than_their_messages() -> None:
    async def scenario(control, theirs) -> None:
        sent = []

        async def send(number: int) -> None:
            await control.send(bytes((number,)) * MIB)
            sent.append(number)

        begun_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(send, number)
                await trio.testing.wait_all_tasks_blocked()
            assert sent == []
            assert control.blocked_since_s is not None
            assert begun_s <= control.blocked_since_s <= trio.current_time()
            received = b""
            while len(received) < 3 * MIB:
                await trio.lowlevel.wait_readable(theirs)
                received += theirs.recv(MIB)
        assert sent == [0, 1, 2]
        assert received == b"".join(bytes((number,)) * MIB for number in range(3))
        assert control.blocked_since_s is None
        assert not control.is_cut

    play(scenario)


def test_half_a_message_is_remembered_as_cut() -> None:
    async def scenario(control, theirs) -> None:
        del theirs
        with trio.move_on_after(0.01):
            await control.send(bytes(MIB))
        assert control.is_cut

    play(scenario)


@pytest.mark.parametrize("begin", [b"\xff\xff\xff\xff", (MIB + 1).to_bytes(4, "big")])
def test_message_over_the_limit_is_refused_by_its_length(begin: bytes) -> None:
    async def scenario(control, theirs) -> None:
        theirs.send(turn(1) + begin)
        with pytest.raises(protocol.ProtocolError, match=f"is over the limit of {MIB}"):
            await control.receive()

    play(scenario)


def test_flood_without_a_receiver_is_held_by_the_kernel_alone() -> None:
    async def scenario(control, theirs) -> None:
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            for number in range(1_000_000):
                theirs.send(turn(number))
        assert control.held_bytes == 0
        assert control.has_unread()
        frames = await control.receive()
        assert [frame.run for frame in frames] == list(range(len(frames)))
        assert control.held_bytes < READ_BYTES

    play(scenario)


def test_empty_messages_without_end_give_others_their_turn() -> None:
    async def scenario(control, theirs) -> None:
        theirs.setblocking(False)
        turns = 0
        receiving = trio.CancelScope()

        async def flood() -> None:
            nonlocal turns
            while True:
                turns += 1
                if turns > 10:
                    receiving.cancel()
                with pytest.raises(BlockingIOError):
                    while True:
                        theirs.send(encode_message([]))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            with receiving:
                await control.receive()
            assert receiving.cancelled_caught
            nursery.cancel_scope.cancel()

    play(scenario)


def test_closing_wakes_who_receives_and_who_waits_for_a_turn_to_send() -> None:
    async def scenario(control, theirs) -> None:
        del theirs

        async def closed(call) -> None:
            with pytest.raises(trio.ClosedResourceError):
                await call()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(closed, control.receive)
            for _ in range(2):
                nursery.start_soon(closed, lambda: control.send(bytes(MIB)))
            await trio.testing.wait_all_tasks_blocked()
            control.close()
        with pytest.raises(trio.ClosedResourceError):
            await control.receive()
        with pytest.raises(OSError, match="Bad file descriptor"):
            await control.send(b"late")

    play(scenario)


def test_large_message_is_handed_out_in_parts_and_before_what_came_after_it() -> None:
    """Weakness: the event loop. Attack: a message of a million small frames, which take a second to decode."""

    async def scenario(control, theirs) -> None:
        frames = [Turn(number, 0, [], idle=True) for number in range(30_000)]
        data = turn(1) + encode_message(frames) + turn(2) + line(PART_BYTES * 2) + turn(3)
        sent = trio.Event()

        async def send() -> None:
            other = trio.socket.from_stdlib_socket(theirs)
            left = memoryview(data)
            while left:
                left = left[await other.send(left) :]
            sent.set()

        theirs.setblocking(False)
        received, most = [], 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while len(received) < 30_004:
                part = await control.receive()
                most = max(most, len(part))
                received += part
        assert received[:1] == [Turn(1, 0, [], idle=True)]
        assert received[1:30_001] == frames
        assert [frame.run for frame in received[30_001:]] == [2, 1, 3]
        assert most <= PART_BYTES // 6 + 1, "a frame of a part has six bytes at least"
        assert not control.has_unread()

    play(scenario, frame_bytes_max=4 * MIB)


def test_malformed_frame_of_a_large_message_is_refused_when_it_is_reached() -> None:
    async def scenario(control, theirs) -> None:
        good = encode_message([Turn(number, 0, [], idle=True) for number in range(20_000)])[4:]
        body = good[:1] + (20_001).to_bytes(2, "big") + good[3:] + b"\xc3"
        theirs.setblocking(False)
        theirs.send(len(body).to_bytes(4, "big") + body)
        received = []
        with pytest.raises(protocol.ProtocolError, match="does not fit the protocol"):
            while True:
                received += await control.receive()
        assert 5_000 < len(received) <= 20_000

    play(scenario)
