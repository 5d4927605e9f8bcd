"""Beginnings and ends of processes, forks, signals and threads: each in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import child, mesh, run_on, until

import iicp_core
from iicp_core import CHAT, sync

# Three times the two seconds that the engine may take.
EXIT_SECONDS = 6

PREAMBLE = """
import asyncio, atexit, os, signal, sys, threading, time
# What was started in the background inherits that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
import iicp_core
from iicp_core import CHAT, Code, IicpError, sync

def hang(task):
    threading.Event().wait()

async def hang_async(task):
    await asyncio.Event().wait()

def wait_for(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)

def say(*words):
    print(*words, flush=True)

directory = sync.Directory.loopback()
"""

ENDS = {
    "return": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "exception": ("raise RuntimeError('the end')", 1),
    "atexit": ("atexit.register(lambda: say('last words'))", 0),
    "signal": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)", -signal.SIGTERM),
}


def ends(program: str, code: int) -> str:
    """Runs a program that says when it is about to end, and checks how and how soon it does."""
    command = [sys.executable, "-X", "dev", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        began = time.monotonic()
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert line == "ending\n", err
        assert process.returncode == code, err
        assert time.monotonic() - began < EXIT_SECONDS
        assert "Fatal" not in err
        return out + err


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("handler", ["hang", "hang_async"])
def test_a_process_ends_at_once_with_calls_and_tasks_that_run(end: str, handler: str) -> None:
    statement, code = ENDS[end]
    ends(
        PREAMBLE
        + f"""
node = sync.serve({handler}, intents=[CHAT], directory=directory.url, max_concurrent=100)
client = sync.Client(directory=directory.url)

def call():
    try:
        client.submit(intent=CHAT, payload=1)
    except IicpError:
        pass

for _ in range(100):
    threading.Thread(target=call, daemon=True).start()
wait_for(lambda: node.status().active_jobs == 100)
say("ending")
{statement}
""",
        code,
    )


@pytest.mark.parametrize("end", ["return", "sys.exit", "exception"])
def test_a_loop_ends_at_once_with_calls_and_tasks_that_run(end: str) -> None:
    statement, code = ENDS[end]
    out = ends(
        PREAMBLE
        + f"""
async def main():
    node = await iicp_core.serve(hang_async, intents=[CHAT], directory=directory.url, max_concurrent=100)
    client = iicp_core.Client(directory=directory.url)
    calls = [asyncio.create_task(client.submit(intent=CHAT, payload=1)) for _ in range(100)]
    while node.status().active_jobs < 100:
        await asyncio.sleep(0.01)
    say("ending")
    {statement or "return"}

asyncio.run(main())
""",
        code,
    )
    assert "never retrieved" not in out


FORK = (
    PREAMBLE
    + """
def in_child(what):
    child = os.fork()
    if child == 0:
        try:
            what()
        except BaseException as e:
            say("child failed:", repr(e))
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0

def round_trip():
    with (
        sync.Directory.loopback() as mine,
        sync.serve(lambda task: task.payload, intents=[CHAT], directory=mine.url),
        sync.Client(directory=mine.url) as client,
    ):
        assert client.submit(intent=CHAT, payload=1).result == 1
    async def main():
        async with (
            iicp_core.Directory.loopback() as mine,
            iicp_core.serve(hang_async, intents=[CHAT], directory=mine.url),
            iicp_core.Client(directory=mine.url) as client,
        ):
            assert len(await client.discover(intent=CHAT)) == 1
    asyncio.run(main())
"""
)


def test_a_child_that_was_forked_before_the_first_use_works() -> None:
    done = child(FORK.replace("directory = sync.Directory.loopback()", "") + "in_child(round_trip)\nround_trip()\n")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_child_that_was_forked_after_use_is_told_so_and_works_with_what_it_makes() -> None:
    done = child(
        FORK
        + """
node = sync.serve(hang, intents=[CHAT], directory=directory.url, max_concurrent=100)
client = sync.Client(directory=directory.url)
# Threads that wait in the engine while this one forks.
def call():
    try:
        client.submit(intent=CHAT, payload=1)
    except IicpError:
        pass
for _ in range(10):
    threading.Thread(target=call, daemon=True).start()
wait_for(lambda: node.status().active_jobs == 10)

def use_the_parents():
    for use in (
        lambda: client.discover(intent=CHAT),
        lambda: client.submit(intent=CHAT, payload=1),
        lambda: client.chat("Hello"),
        node.status,
        directory.close,
    ):
        try:
            use()
        except IicpError as e:
            assert e.code == Code.FORKED, e
            assert "fork" in str(e)
        else:
            raise AssertionError("FORKED was expected")
    client.close()
    round_trip()
    in_child(round_trip)

for _ in range(3):
    in_child(use_the_parents)
assert len(client.discover(intent=CHAT)) == 1
assert node.status().active_jobs == 10
say("ending")
"""
    )
    assert (done.returncode, done.stdout) == (0, "ending\n"), done.stdout + done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_by_every_method(method: str, tmp_path: os.PathLike[str]) -> None:
    program = f"""
import multiprocessing
from iicp_core import CHAT, sync

def use(url):
    with sync.Client(directory=url) as client:
        return client.submit(intent=CHAT, payload=1).result

if __name__ == "__main__":
    with (
        sync.Directory.loopback() as directory,
        sync.serve(lambda task: task.payload, intents=[CHAT], directory=directory.url),
        multiprocessing.get_context("{method}").Pool(2) as pool,
    ):
        assert use(directory.url) == 1
        assert pool.map(use, [directory.url] * 4) == [1] * 4
        pool.close()
        pool.join()
"""
    path = os.path.join(tmp_path, "program.py")
    with open(path, "w") as file:
        file.write(program)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


INTERRUPTED = {
    "submit": "client.submit(intent=CHAT, payload=1)",
    "closed": "node.closed()",
    "async": "asyncio.run(hang_in_a_call())",
}


@pytest.mark.parametrize("wait", INTERRUPTED)
def test_ctrl_c_gets_through_while_the_program_waits(wait: str) -> None:
    program = (
        PREAMBLE
        + f"""
node = sync.serve(hang, intents=[CHAT], directory=directory.url)
client = sync.Client(directory=directory.url)

async def hang_in_a_call():
    async with iicp_core.Client(directory=directory.url) as client:
        await client.submit(intent=CHAT, payload=1)

def waits():
    frame, names = sys._current_frames()[threading.main_thread().ident], set()
    while frame:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return node.status().active_jobs == 1 if "{wait}" != "closed" else {{"closed", "_wait", "wait"}} <= names

def announce():
    wait_for(waits)
    say("waiting")

threading.Thread(target=announce).start()
try:
    {INTERRUPTED[wait]}
except KeyboardInterrupt:
    say("interrupted")
wait_for(lambda: node.status().active_jobs == 0)
say("cancelled")
"""
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        # So that a wait that nothing ends is a failure and no hang.
        watchdog = threading.Timer(60, process.kill)
        watchdog.daemon = True
        watchdog.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.stdout.readline() == "interrupted\n"
        # A tenth of a second is what a wait takes to notice.
        assert time.monotonic() - began < 1
        assert process.stdout.readline() == "cancelled\n"
        assert process.wait(EXIT_SECONDS) == 0


def test_a_busy_interpreter_and_a_blocked_loop_delay_no_heartbeat() -> None:
    program = """
import asyncio, sys, threading, time
import iicp_core

def busy():
    while True:
        pass

async def main():
    node = await iicp_core.serve(lambda task: 1, intents=[iicp_core.CHAT], directory=sys.argv[1])
    for _ in range(2):
        threading.Thread(target=busy, daemon=True).start()
    print("blocked", flush=True)
    time.sleep(5)
    print("over", flush=True)
    await node.close(grace=5)

asyncio.run(main())
"""
    # The directory asks for a report every half second, and forgets who is silent for two.
    with sync.Directory.loopback(heartbeat=0.5, node_ttl=2.0) as directory:
        command = [sys.executable, "-c", program, directory.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "blocked\n"
            began, looked = time.monotonic(), 0
            while time.monotonic() - began < 4.5:
                with sync.Client(directory=directory.url) as client:
                    assert len(client.discover(intent=CHAT)) == 1
                looked += 1
                time.sleep(0.1)
            assert looked > 10
            assert process.stdout.readline() == "over\n"
            assert process.wait(EXIT_SECONDS * 3) == 0


def memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_ten_thousand_cancels_leave_nothing_behind() -> None:
    async def hang(_: iicp_core.Inbound) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with mesh(hang, max_concurrent=256) as (node, client):

            async def cancel(count: int) -> None:
                for _ in range(count // 100):
                    calls = [asyncio.create_task(client.submit(intent=CHAT, payload=1)) for _ in range(100)]
                    await asyncio.sleep(0)
                    # Some are on their way by now, some are being served, some have not begun.
                    if count % 3:
                        await asyncio.sleep(0.001)
                    for call in calls:
                        call.cancel()
                    assert all(
                        isinstance(e, asyncio.CancelledError)
                        for e in await asyncio.gather(*calls, return_exceptions=True)
                    )

            await cancel(2_000)
            before = memory()
            await cancel(10_000)
            await until(lambda: node.status().active_jobs == node.status().overrunning == 0)
            assert memory() - before < 8 << 20

    run_on("asyncio", main())


def test_a_sub_interpreter_works_or_is_refused_by_name() -> None:
    done = child(
        """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
from iicp_core import CHAT, sync
with sync.Directory.loopback() as directory:
    inner = interpreters.create()
    code = f'''
try:
    from iicp_core import IicpError, sync
except ImportError as e:
    assert "subinterpreter" in str(e), e
else:
    try:
        sync.Client(directory={directory.url!r}).discover(intent={CHAT!r})
    except IicpError as e:
        assert e.name == "NO_NODES" or e.name == "UNSUPPORTED" and "main interpreter" in str(e), e
'''
    failed = interpreters.run_string(inner, code)
    assert failed is None, failed
    interpreters.destroy(inner)
    try:
        sync.Client(directory=directory.url).discover(intent=CHAT)
    except Exception as e:
        assert e.name == "NO_NODES", e
"""
    )
    assert done.returncode == 0, done.stderr


def test_sixty_thousand_calls_and_tasks_leave_no_memory_behind() -> None:
    async def echo(task: iicp_core.Inbound) -> object:
        return task.payload

    async def main() -> None:
        # What a node remembers of its tasks is bounded; here that bound is reached at once.
        async with mesh(echo, max_concurrent=256, replay_bytes=65_536, result_bytes=0) as (_, client):

            async def lane(count: int) -> None:
                for _ in range(count):
                    await client.submit(intent=CHAT, payload={"text": "x" * 500})

            async def calls(count: int) -> None:
                await asyncio.gather(*(lane(count // 50) for _ in range(50)))

            await calls(30_000)
            gc.collect()
            before, blocks = memory(), sys.getallocatedblocks()
            await calls(30_000)
            gc.collect()
            assert (memory() - before) / 30_000 < 50
            assert sys.getallocatedblocks() - blocks < 1_000

    run_on("asyncio", main(), seconds=120)


def test_two_copies_of_the_package_in_one_process_work_side_by_side(tmp_path: Path) -> None:
    shutil.copytree(Path(iicp_core.__file__).parent, tmp_path / "iicp_core_copy")
    done = child(
        """
import sys
sys.path.append(sys.argv[1])
import iicp_core.sync, iicp_core_copy.sync
from iicp_core import CHAT

with (
    iicp_core.sync.Directory.loopback() as directory,
    iicp_core_copy.sync.serve(lambda task: task.payload, intents=[CHAT], directory=directory.url),
    iicp_core.sync.Client(directory=directory.url) as mine,
    iicp_core_copy.sync.Client(directory=directory.url) as other,
):
    assert mine.submit(intent=CHAT, payload=1).result == 1
    assert other.submit(intent=CHAT, payload=2).result == 2
""",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
