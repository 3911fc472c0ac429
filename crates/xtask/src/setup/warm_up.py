"""Runs cells in a kernel: python -c ... KERNEL CELL...; fails on any error."""

import os
import signal
import sys
import threading
import time

from jupyter_client.manager import start_new_kernel

kernel_name, *cells = sys.argv[1:]
complaints = []


def show(message):
    content = message["content"]
    if message["msg_type"] == "stream":
        print(content["text"], end="", flush=True)
    elif message["msg_type"] == "error":
        complaints.append("\n".join(content["traceback"]))


def end_with(parent):
    """A kernel that outlived the set-up would keep the build folder locked."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)


# As at the stop of a keyboard, so that the kernel is ended below.
for ending in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(ending, signal.default_int_handler)
threading.Thread(target=end_with, args=[os.getppid()], daemon=True).start()
try:
    manager, client = start_new_kernel(startup_timeout=600, kernel_name=kernel_name)
except RuntimeError as error:
    # The kernel has said above why it ended, which a traceback would only hide.
    sys.exit(str(error))
try:
    for cell in cells:
        reply = client.execute_interactive(cell, output_hook=show)
        if complaints or reply["content"]["status"] != "ok":
            sys.exit("in the cell\n%s\n%s" % (cell, "".join(complaints)))
finally:
    client.stop_channels()
    manager.shutdown_kernel()
