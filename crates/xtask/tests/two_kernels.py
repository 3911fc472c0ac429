"""Runs two kernels at once, each in a thread of its own, and prints a line of JSON for each."""

import json
import threading
import time

from jupyter_client.manager import start_new_kernel


def cells(number):
    yield ':dep earlystop = { path = "../crates/earlystop" }'
    yield "use earlystop::Error;"
    yield "fn own(x: i32) -> i32 { x * %d }" % (10 * number)
    for x in range(8):
        yield 'println!("{}", own(%d));' % x
    yield 'println!("{}", std::env::var("EVCXR_TMPDIR").unwrap());'


def session(number, barrier):
    started = time.monotonic()
    manager, client = start_new_kernel(startup_timeout=300, kernel_name="rust")
    ready, texts = None, []

    def keep(message):
        if message["msg_type"] == "stream":
            texts.append(message["content"]["text"].strip())

    try:
        barrier.wait()
        for cell in cells(number):
            client.execute_interactive(cell, output_hook=keep)
            ready = ready or time.monotonic() - started
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    print(json.dumps({"texts": texts[:-1], "folder": texts[-1], "seconds": ready}), flush=True)


both = threading.Barrier(2)
threads = [threading.Thread(target=session, args=[number, both]) for number in (1, 2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
