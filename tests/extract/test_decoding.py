"""Decoder processes: the same pixels, and what becomes of pictures that kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from extract import (
    CAPTION_PROMPTS,
    BadPicture,
    FakeEngine,
    MissingPrerequisite,
    PictureLimits,
    caption_items,
    caption_store,
    captions_of,
    decode_picture,
    decoder_process,
    decoding,
    quarantine_of,
)
from extract.decoding import DecoderPool
from extract.picture_fit import PictureFit

LIMITS = PictureLimits(max_pixels=1_000_000, max_seconds=0.5)
WICKED = """
import os, signal, time
from extract import decoder_worker
real = decoder_worker.decode_picture
def decode(data, limits, fit):
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"spin":
        while True: pass
    if data == b"sleep":
        time.sleep(1000)
    if data == b"hoard":
        bytearray(3 * 2**30)
    if data.startswith(b"once"):
        name = data[4:].decode()
        if os.path.exists(name):
            os.unlink(name)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(open(name + ".png", "rb").read(), limits, fit)
    if data == b"drip":
        parent = [fd for fd in range(3, 20) if os.path.exists(f"/proc/self/fd/{fd}")][0]
        while True:
            os.write(parent, b"x")
            time.sleep(0.5)
    if data.startswith(b"write"):
        os.write(os.open(data[5:], os.O_CREAT | os.O_WRONLY), b"x")
    return real(data, limits, fit)
decoder_worker.decode_picture = decode
decoder_worker.main(fd)
"""


def reason_of(pool: DecoderPool, data: bytes) -> str:
    with pytest.raises(BadPicture) as caught:
        pool.submit(data).result(timeout=60)
    return caught.value.reason


def alive(pool: DecoderPool) -> list[int]:
    return [process.pid for process in pool._idle.queue]


def test_decoder_processes_give_the_pixels_and_reasons_of_this_process(picture_bytes):
    fit = PictureFit(kind="shortest", size=(16, 0))
    pictures = [picture_bytes(seed, kind, (30 + seed, 20)) for seed in range(3) for kind in ("JPEG", "PNG")]
    with DecoderPool(LIMITS, lambda: fit, 2) as pool:
        found = [pool.submit(data) for data in [*pictures, pictures[0][:-30], b"<html>", b""]]
        for data, future in zip(pictures, found):
            expected = decode_picture(data, LIMITS, fit)
            assert (future.result().size, future.result().tobytes()) == (expected.size, expected.tobytes())
        reasons = [future.exception().reason for future in found[-3:]]
        pids = alive(pool)
        assert 1 <= len(pids) <= 2
    assert reasons == ["broken", "not-a-picture", "empty"]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_picture_that_kills_its_decoder_costs_itself_only(monkeypatch, tmp_path, picture_bytes):
    monkeypatch.setattr(decoder_process, "WORKER", WICKED)
    monkeypatch.setattr(decoding, "WALL_SPARE", 0.5)
    monkeypatch.setattr(decoding, "WALL_PER_CPU", 4)
    good = picture_bytes(1)
    with DecoderPool(LIMITS, processes=1) as pool:
        assert reason_of(pool, b"crash") == "decoder-crash"
        assert pool.submit(good).result().size == (24, 24)
        assert reason_of(pool, b"spin") == "decoder-timeout"
        assert reason_of(pool, b"sleep") == "decoder-timeout"
        # Nine bytes make an answer, which is nonsense and would be a crash; its time is over before.
        assert reason_of(pool, b"drip") == "decoder-timeout"
        assert reason_of(pool, b"hoard") == "too-much-memory"
        assert reason_of(pool, f"write{tmp_path / 'written'}".encode()) == "decoder-crash"
        assert (tmp_path / "written").read_bytes() == b""
        assert pool.submit(good).result().tobytes() == decode_picture(good).tobytes()


def test_a_decoder_killed_for_no_fault_of_the_picture_is_replaced(monkeypatch, tmp_path, picture_bytes):
    monkeypatch.setattr(decoder_process, "WORKER", WICKED)
    (tmp_path / "flag").touch()
    (tmp_path / "flag.png").write_bytes(picture_bytes(1))
    with DecoderPool(LIMITS, processes=1) as pool:
        assert pool.submit(f"once{tmp_path / 'flag'}".encode()).result(timeout=60).size == (24, 24)
        [pid] = alive(pool)
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        assert pool.submit(picture_bytes(1)).result(timeout=60).size == (24, 24)


def test_a_decoder_that_was_stopped_costs_its_time_and_no_picture(monkeypatch, picture_bytes):
    monkeypatch.setattr(decoding, "WALL_SPARE", 0.5)
    monkeypatch.setattr(decoding, "WALL_PER_CPU", 1)
    with DecoderPool(LIMITS, processes=1) as pool:
        pool.submit(picture_bytes(1)).result(timeout=60)
        [pid] = alive(pool)
        os.kill(pid, signal.SIGSTOP)
        assert pool.submit(picture_bytes(2)).result(timeout=60).size == (24, 24)
        assert pid not in alive(pool)


def test_decoders_come_from_a_new_process_when_theirs_was_killed(picture_bytes):
    with DecoderPool(LIMITS, processes=1) as pool:
        pool.submit(picture_bytes(1)).result(timeout=60)
        first, [pid] = pool._origin, alive(pool)
        first._process.kill()
        first._process.wait()
        os.kill(pid, signal.SIGKILL)
        assert pool.submit(picture_bytes(2)).result(timeout=60).size == (24, 24)
        assert pool._origin is not first


def test_a_second_try_is_in_a_fresh_process_whatever_became_of_the_idle_ones(picture_bytes):
    with DecoderPool(LIMITS, processes=2) as pool:
        together = [pool.submit(picture_bytes(1)) for _ in range(20)]
        assert all(future.result().size == (24, 24) for future in together)
        for pid in alive(pool):
            os.kill(pid, signal.SIGKILL)
        assert pool.submit(picture_bytes(2)).result(timeout=60).size == (24, 24)


NO_FORK = """
import os
from extract import decoder_worker
def fork():
    raise BlockingIOError(11)
os.fork = fork
decoder_worker.main(fd)
"""


def test_where_no_process_can_be_had_no_picture_is_to_blame(monkeypatch, picture_bytes):
    monkeypatch.setattr(decoder_process, "WORKER", NO_FORK)
    with DecoderPool(LIMITS, processes=1) as pool, pytest.raises(MissingPrerequisite, match="can be started"):
        pool.submit(picture_bytes(1)).result(timeout=60)


def test_an_origin_that_keeps_ending_is_no_pictures_fault(monkeypatch, picture_bytes):
    monkeypatch.setattr(decoder_process, "WORKER", NO_FORK.replace("raise BlockingIOError", "os._exit"))
    with DecoderPool(LIMITS, processes=1) as pool, pytest.raises(MissingPrerequisite, match="stays alive"):
        pool.submit(picture_bytes(1)).result(timeout=60)


def test_pictures_that_kill_decoders_leave_the_process_they_come_from_alone(monkeypatch, picture_bytes):
    monkeypatch.setattr(decoder_process, "WORKER", WICKED)
    with DecoderPool(LIMITS, processes=1) as pool:
        pool.submit(picture_bytes(1)).result(timeout=60)
        origin = pool._origin
        for _ in range(3):
            assert reason_of(pool, b"crash") == "decoder-crash"
        pool.submit(picture_bytes(1)).result(timeout=60)
        assert pool._origin is origin
        assert origin.lives


def test_a_decoder_that_cannot_start_is_a_missing_prerequisite(monkeypatch):
    monkeypatch.setattr(decoder_process, "WORKER", "raise SystemExit(3)")
    with DecoderPool(LIMITS, processes=1) as pool, pytest.raises(MissingPrerequisite, match="does not start"):
        pool.submit(b"x").result(timeout=60)


@pytest.mark.parametrize("processes", [1, 3])
def test_the_number_of_decoders_decides_nothing(tmp_path, shop, processes):
    catalog, prompt = shop(20), CAPTION_PROMPTS["plain"]
    (catalog.pictures.root / "7.png").write_bytes(b"<html>")
    stores = []
    for name, decoders in (("here", 0), ("there", processes)):
        store = caption_store(
            tmp_path / name, FakeEngine(), prompt=prompt, batch_size=3, buckets=2, limits=LIMITS
        )
        caption_items(
            catalog, FakeEngine(), store, prompt=prompt, batch_size=3, limits=LIMITS, decoders=decoders
        )
        stores.append(store)
    assert stores[0].content_hash() == stores[1].content_hash()
    assert len(captions_of(stores[0])) == 19
    assert [bad.reason for bad in quarantine_of(stores[1])] == ["not-a-picture"]


def test_decoders_end_with_a_killed_run(tmp_path, picture_bytes):
    (tmp_path / "a.png").write_bytes(picture_bytes(1))
    code = (
        f"import sys, time; sys.path[:] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from extract import PictureLimits\n"
        "from extract.decoding import DecoderPool\n"
        "pool = DecoderPool(PictureLimits(), processes=1)\n"
        f"pool.submit(Path({str(tmp_path / 'a.png')!r}).read_bytes()).result()\n"
        "print(pool._idle.queue[0].pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        pid = int(run.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        run.kill()
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.02)


LEFT_BEHIND = """
import io, resource
from PIL import Image
from extract.cpu_share import keep_freed_memory
from extract.decoder_worker import KEPT_BYTES
from extract.pictures import decode_picture

keep_freed_memory(KEPT_BYTES)
file = io.BytesIO()
Image.new("RGBA", (3500, 3500)).save(file, "PNG", compress_level=1)

def mapped():
    with open("/proc/self/statm") as status:
        return int(status.read().split()[0]) * resource.getpagesize()

before = mapped()
decode_picture(file.getvalue())
print(mapped() - before - KEPT_BYTES)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_a_large_picture_leaves_its_decoder_the_memory_for_the_next_one():
    left = subprocess.run([sys.executable, "-c", LEFT_BEHIND], capture_output=True, check=True).stdout
    assert int(left) < 2**25  # of 4 x 49 MB that it took
