"""A kernel and a client for tests: `cells` runs code and keeps all that the kernel tells."""

import os
import queue
import time
import unittest

from jupyter_client.manager import KernelManager

KERNEL = os.environ.get("KERNEL_NAME", "rust")
TIMEOUT = 120


class Result:
    """What came of a cell: its reply, and the messages between busy and idle."""

    def __init__(self, reply, messages):
        self.reply = reply["content"]
        self.messages = [(message["msg_type"], message["content"]) for message in messages]

    @property
    def status(self):
        return self.reply["status"]

    def stream(self, name):
        return "".join(c["text"] for kind, c in self.messages if kind == "stream" and c["name"] == name)

    @property
    def out(self):
        return self.stream("stdout")

    @property
    def err(self):
        return self.stream("stderr")

    def contents(self, kind):
        return [content for k, content in self.messages if k == kind]

    @property
    def kinds(self):
        return [kind for kind, _ in self.messages if kind not in ("status", "execute_input")]

    @property
    def error(self):
        (error,) = self.contents("error")
        return error

    @property
    def plain(self):
        (result,) = self.contents("execute_result")
        return result["data"]["text/plain"]


class Session:
    def __init__(self, env=None, cwd=None):
        self.manager = KernelManager(kernel_name=KERNEL)
        self.manager.start_kernel(env=dict(os.environ, **(env or {})), cwd=cwd)
        self.client = self.manager.client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=TIMEOUT)
        except Exception:
            self.end()
            raise

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)

    def reply(self, message_id, timeout=TIMEOUT):
        until = time.monotonic() + timeout
        while True:
            message = self.client.get_shell_msg(timeout=max(0.01, until - time.monotonic()))
            if message["parent_header"].get("msg_id") == message_id:
                return message

    def messages(self, message_id, timeout=TIMEOUT, watch=None):
        """The messages about a request, up to idle."""
        until = time.monotonic() + timeout
        found = []
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.01, until - time.monotonic()))
            if message["parent_header"].get("msg_id") != message_id:
                continue
            message["received"] = time.monotonic()
            found.append(message)
            if watch:
                watch(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return found

    def run(self, code, timeout=TIMEOUT, watch=None, **options):
        message_id = self.client.execute(code, **options)
        return self.result(message_id, timeout, watch)

    def result(self, message_id, timeout=TIMEOUT, watch=None):
        messages = self.messages(message_id, timeout, watch)
        result = Result(self.reply(message_id, timeout), messages)
        result.received = [message["received"] for message in messages]
        return result

    def ask(self, method, *args, **kwargs):
        """A request that is not a cell: the content of its reply."""
        message_id = getattr(self.client, method)(*args, **kwargs)
        reply = self.reply(message_id)
        self.messages(message_id)
        return reply["content"]

    def control(self, kind, content=None, timeout=TIMEOUT):
        message = self.client.session.msg(kind, content or {})
        self.client.control_channel.send(message)
        until = time.monotonic() + timeout
        while True:
            reply = self.client.get_control_msg(timeout=max(0.01, until - time.monotonic()))
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return reply["content"]

    def interrupt(self):
        self.control("interrupt_request")

    def drain(self):
        while True:
            try:
                self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                return


def when(text, action):
    """Does something when a text is printed, once."""
    done = []

    def watch(message):
        if not done and message["msg_type"] == "stream" and text in message["content"]["text"]:
            done.append(True)
            action()

    return watch


def processes(group):
    """The processes that were started with a kernel as their first, with their names."""
    found = {}
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                stat = file.read()
        except (OSError, NotADirectoryError):
            continue
        name, rest = stat.split("(", 1)[1].rsplit(") ", 1)
        state, _, process_group = rest.split()[:3]
        if int(process_group) == group and state != "Z":
            found[int(entry)] = name
    return found


class KernelTest(unittest.TestCase):
    """Tests that share one kernel."""

    @classmethod
    def setUpClass(cls):
        cls.session = Session()

    @classmethod
    def tearDownClass(cls):
        cls.session.end()

    def setUp(self):
        self.run_cell = self.session.run

    def ok(self, code, **options):
        result = self.session.run(code, **options)
        self.assertEqual(result.status, "ok", result.messages)
        return result

    def fails(self, code, **options):
        result = self.session.run(code, **options)
        self.assertEqual(result.status, "error", result.messages)
        errors = result.contents("error")
        self.assertTrue(errors, result.messages)
        self.assertEqual((result.reply["ename"], result.reply["evalue"]), (errors[0]["ename"], errors[0]["evalue"]))
        return result
