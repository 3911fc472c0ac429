"""What clients ask besides cells."""

import os
import tempfile
import time
import unittest

import jupyter_kernel_test
from session import KERNEL, TIMEOUT, KernelTest, Session, when
from test_stop import LOOP


class Protocol(KernelTest):
    def test_execution_counts_begin_at_one(self):
        session = Session()
        try:
            # Also while the kernel starts.
            self.assertEqual(session.ask("kernel_info")["implementation"], "earlystop-kernel")
            self.assertEqual([session.run(code).reply["execution_count"] for code in ("1", "", "2")], [1, 1, 2])
        finally:
            session.end()

    def test_completeness(self):
        for code, status in [("1 + 1", "complete"), ("fn f() {", "incomplete"), ("let = 1", "invalid")]:
            self.assertEqual(self.session.ask("is_complete", code)["status"], status, code)

    def test_completion_and_inspection(self):
        self.ok("let größe = vec![1];")
        reply = self.session.ask("complete", "größe.le", 8)
        self.assertIn("len", [match.rstrip("()") for match in reply["matches"]])
        self.assertEqual((reply["cursor_start"], reply["cursor_end"]), (6, 8))
        self.assertIn(":dep", self.session.ask("complete", ":de", 3)["matches"])
        self.assertEqual(self.session.ask("complete", "}}}", 3)["matches"], [])
        reply = self.session.ask("inspect", "größe.len()", 8)
        self.assertTrue(reply["found"])
        self.assertIn("len", reply["data"]["text/plain"])
        self.assertFalse(self.session.ask("inspect", "nonsense_", 3)["found"])

    def test_history(self):
        self.ok("// first in history\n1")
        history = self.session.ask("history", hist_access_type="tail", n=1)["history"]
        self.assertEqual(history[0][2], "// first in history\n1")

    def test_comms_are_answered(self):
        self.assertEqual(self.session.ask("comm_info")["comms"], {})
        client = self.session.client
        message = client.session.msg("comm_open", {"comm_id": "a", "target_name": "nobody", "data": {}})
        client.shell_channel.send(message)
        kinds = [m["msg_type"] for m in self.session.messages(message["header"]["msg_id"])]
        self.assertIn("comm_close", kinds)
        for kind in ("comm_msg", "comm_close", "unknown_request"):
            message = client.session.msg(kind, {"comm_id": "a", "data": {}})
            client.shell_channel.send(message)
            self.session.messages(message["header"]["msg_id"], timeout=10)

    def test_input(self):
        client = self.session.client
        ask = 'println!("EVCXR_INPUT_REQUEST:name?"); let mut line = String::new(); std::io::stdin().read_line(&mut line)?; println!("{}", line.trim());'
        message_id = client.execute('println!("before"); ' + ask, allow_stdin=True)
        request = client.get_stdin_msg(timeout=60)
        self.assertEqual(request["content"], {"prompt": "name?", "password": False})
        client.input("Ada")
        self.assertEqual(self.session.result(message_id).out, "before\nAda\n")
        # A client that cannot ask, and the stop button, answer with nothing.
        self.assertEqual(self.ok(ask, allow_stdin=False).out, "\n")
        message_id = client.execute(ask, allow_stdin=True)
        client.get_stdin_msg(timeout=60)
        self.session.interrupt()
        self.assertEqual(self.session.result(message_id).error["ename"], "Interrupted")

    def test_silent_cells_and_cells_without_history(self):
        count = self.ok("1").reply["execution_count"]
        self.assertEqual(self.ok('println!("x");', silent=True).messages[1:-1], [])
        self.assertEqual(self.ok("2", store_history=False).reply["execution_count"], count)
        self.assertEqual(self.ok("3").reply["execution_count"], count + 1)

    def test_wrong_signatures_are_not_answered(self):
        client = self.session.client
        key, client.session.key = client.session.key, b"another"
        try:
            client.execute("1")
        finally:
            client.session.key = key
        self.session.drain()
        self.assertEqual(self.ok("2").plain, "2")

    def test_the_heart_beats_also_during_a_cell(self):
        client = self.session.client
        client.hb_channel.unpause()
        beats = []

        def listen():
            time.sleep(1.5)
            beats.append(client.is_alive() and client.hb_channel.is_beating())
            self.session.interrupt()

        self.session.run(LOOP, watch=when("begins", listen))
        self.assertEqual(beats, [True])

    def test_two_clients(self):
        # With a session of its own, as another program has.
        from jupyter_client.blocking import BlockingKernelClient

        other = BlockingKernelClient(connection_file=self.session.manager.connection_file)
        other.load_connection_file()
        other.start_channels()
        self.addCleanup(other.stop_channels)
        other.wait_for_ready(timeout=60)
        self.ok("let shared = 7;")
        seen = []
        reply = other.execute_interactive("shared", output_hook=seen.append, timeout=60)
        self.assertEqual(reply["content"]["status"], "ok")
        self.assertEqual([m["content"]["data"]["text/plain"] for m in seen if m["msg_type"] == "execute_result"], ["7"])

    def test_the_users_prelude_is_run_again_in_a_new_process(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "evcxr.toml"), "w", encoding="utf-8") as file:
                file.write('[evcxr]\nprelude = """\nprintln!("noise");\nstd::fs::write("ran", format!("{}", std::process::id()))?;\n"""\n')
            session = Session(cwd=folder)
            try:
                ran = 'std::fs::read_to_string("ran")? == std::process::id().to_string()'
                self.assertEqual(session.run(ran).plain, "true")
                session.run("std::process::exit(0);")
                self.assertEqual(session.run(ran).plain, "true")
            finally:
                session.end()


class Suite(jupyter_kernel_test.KernelTests):
    """The test suite for kernels of all languages."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # It waits for 15 seconds at most, in which a busy machine may not start evcxr.
        cls.kc.execute_interactive("let first = 1;", timeout=TIMEOUT)

    kernel_name = KERNEL
    language_name = "Rust"
    file_extension = ".rs"
    code_hello_world = 'println!("hello, world");'
    code_stderr = 'eprintln!("oops");'
    code_generate_error = 'panic!("raised")'
    code_execute_result = [{"code": "1 + 2 + 3", "result": "6"}, {"code": "vec![1, 2]", "result": "[1, 2]"}]
    code_display_data = [{"code": r'println!("EVCXR_BEGIN_CONTENT text/html\n<b>\nEVCXR_END_CONTENT");', "mime": "text/html"}]
    code_clear_output = r'println!("\u{2}earlystop {{\"type\":\"clear_output\"}}");'
    completion_samples = [{"text": "std::time::Instan", "matches": {"Instant"}}]
    complete_code_samples = ["1 + 1", "let x = 1;", "fn f() {\n}", ":vars"]
    incomplete_code_samples = ["fn f() {", "let x =", "vec![1,", '"begun']
    invalid_code_samples = ["let = 1;", "}", "fn 1() {}"]
    code_inspect_sample = "std::time::Instant"
    code_history_pattern = "1 ? 2*"
    supported_history_operations = ("tail", "range", "search")


if __name__ == "__main__":
    unittest.main()
