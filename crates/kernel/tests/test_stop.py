"""The stop button: first a request that keeps the variables, then the end of the process. Restart and shutdown."""

import os
import signal
import threading
import time
import unittest

from session import KernelTest, Session, processes, when

LOOP = """println!("begins");
let mut steps = 0;
while !std::path::Path::new(&std::env::var_os("EARLYSTOP_INTERRUPT_FILE").unwrap()).exists() { steps += 1; std::thread::sleep(std::time::Duration::from_millis(5)); }
println!("ended by request");"""
FOREVER = 'println!("begins"); loop { std::thread::sleep(std::time::Duration::from_millis(5)); }'
# Seconds to compile, as the compiler has to write all of it.
SLOW = "fn slow() -> u64 { let mut x = 1u64; %s x }\nslow();" % " ".join(
    f"if x % {i} == {i % 7} {{ x = x.wrapping_mul({i}).rotate_left({i % 60}); println!(\"{{x}} {i}\"); }}" for i in range(2, 3000)
)


# Seconds. On an idle machine everything below takes less than two; a busy one is no fault of the kernel.
LIMIT = 6


class Stop(KernelTest):
    def test_the_first_press_is_a_request_and_keeps_the_variables(self):
        self.ok("let kept = vec![1];")
        result = self.fails(LOOP, watch=when("begins", self.session.interrupt))
        self.assertEqual(result.error["ename"], "Interrupted")
        self.assertIn("ended by request", result.out)
        self.assertIn("Press stop again", result.err)
        self.assertGreater(int(self.ok("steps").plain), 0)
        self.assertEqual(self.ok("kept").plain, "[1]")
        self.assertEqual(
            self.ok('std::path::Path::new(&std::env::var_os("EARLYSTOP_INTERRUPT_FILE").unwrap()).exists()').plain, "false"
        )

    def test_the_second_press_ends_the_process_and_says_so(self):
        self.ok("let lost = 1;")

        def twice():
            self.session.interrupt()
            time.sleep(0.1)
            self.session.interrupt()

        started = time.monotonic()
        result = self.fails(FOREVER, watch=when("begins", twice))
        self.assertLess(time.monotonic() - started, 10)
        self.assertEqual(result.error["ename"], "Interrupted")
        self.assertIn("all variables are lost", result.error["evalue"])
        self.fails("lost")
        result = self.fails('panic!("the second process");')
        self.assertNotIn("stack backtrace", str(result.messages))

    def test_presses_while_idle_do_nothing(self):
        self.ok("let kept_idle = 1;")
        for _ in range(3):
            self.session.interrupt()
        self.assertEqual(self.ok("kept_idle").plain, "1")

    def test_a_press_while_a_cell_is_compiled_ends_it_and_keeps_the_variables(self):
        self.ok("let kept_compiling = String::from(\"a\");")
        threading.Timer(0.7, self.session.interrupt).start()
        started = time.monotonic()
        result = self.fails(SLOW + "\ndrop(kept_compiling);")
        self.assertEqual(result.error["ename"], "Interrupted")
        self.assertLess(time.monotonic() - started, LIMIT)
        self.assertEqual(self.ok("kept_compiling").plain, '"a"')

    def test_a_press_stops_the_queue(self):
        client = self.session.client
        ids = [client.execute(LOOP), client.execute("1")]
        first = self.session.result(ids[0], watch=when("begins", self.session.interrupt))
        self.assertEqual([first.status, self.session.result(ids[1]).status], ["error", "aborted"])

    def test_an_error_by_which_a_loop_ends_is_the_one_that_is_told(self):
        result = self.fails(LOOP + '\nErr::<(), _>("stopped early")?;', watch=when("begins", self.session.interrupt))
        self.assertEqual(result.error["evalue"].splitlines()[-1], "stopped early")

    def test_a_shell_command_is_ended(self):
        threading.Timer(0.5, self.session.interrupt).start()
        started = time.monotonic()
        self.assertEqual(self.fails("!sleep 30").error["ename"], "Interrupted")
        self.assertLess(time.monotonic() - started, LIMIT)

    def test_a_signal_is_a_press(self):
        pid = self.session.manager.provisioner.pid
        result = self.fails(LOOP, watch=when("begins", lambda: os.kill(pid, signal.SIGINT)))
        self.assertEqual(result.error["ename"], "Interrupted")


class Endings(unittest.TestCase):
    """In every state the kernel ends soon and leaves no process."""

    def begin(self, code=None, until=None):
        session = Session()
        self.group = session.manager.provisioner.pid
        self.addCleanup(session.client.stop_channels)
        if code:
            begun = threading.Event()
            session.client.execute(code)
            if until:
                while not begun.is_set():
                    message = session.client.get_iopub_msg(timeout=60)
                    when(until, begun.set)(message)
            else:
                time.sleep(1)
        return session

    def expect_end(self, end):
        self.assertTrue(processes(self.group))
        started = time.monotonic()
        end()
        while processes(self.group) and time.monotonic() - started < 10:
            time.sleep(0.02)
        self.assertEqual(processes(self.group), {})
        self.assertLess(time.monotonic() - started, LIMIT)

    def test_shutdown_in_every_state(self):
        for code, until in [(None, None), (FOREVER, "begins"), (SLOW, None), ("!sleep 30", None)]:
            with self.subTest(code=code and code[:20]):
                session = self.begin(code, until)
                self.expect_end(lambda: session.manager.shutdown_kernel(now=False))

    def test_shutdown_while_it_starts(self):
        session = self.begin()
        session.manager.restart_kernel(now=True)
        self.group = session.manager.provisioner.pid
        session.client.wait_for_ready(timeout=60)
        self.expect_end(lambda: session.manager.shutdown_kernel(now=False))

    def test_restart_during_a_cell(self):
        session = self.begin(FOREVER, "begins")
        old = self.group
        started = time.monotonic()
        session.manager.restart_kernel(now=False)
        self.assertLess(time.monotonic() - started, LIMIT)
        self.assertEqual(processes(old), {})
        session.client.wait_for_ready(timeout=60)
        self.assertEqual(session.run("1 + 1").reply["execution_count"], 1)
        session.end()

    def test_the_death_of_any_part_is_noticed(self):
        session = self.begin("let lost = 1;")
        session.drain()
        own = session.run("std::process::id()").plain
        for pid in [int(own), None]:
            # The process of the cells, then the one before it.
            relay = next(p for p in processes(self.group) if p not in (self.group, int(session.run("std::process::id()").plain)))
            target = pid or relay
            result = session.run(FOREVER, watch=when("begins", lambda: os.kill(target, signal.SIGKILL)))
            self.assertEqual(result.error["ename"], "ProcessEnded")
            self.assertEqual(session.run("2 + 2").plain, "4")
            self.assertEqual(len(processes(self.group)), 3, processes(self.group))
        os.kill(self.group, signal.SIGKILL)
        until = time.monotonic() + 5
        while processes(self.group) and time.monotonic() < until:
            time.sleep(0.05)
        self.assertEqual(processes(self.group), {})
        self.assertFalse(session.manager.is_alive())
        session.manager.cleanup_resources()
