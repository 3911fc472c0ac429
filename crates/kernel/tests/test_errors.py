"""Panics, `?` errors and compile errors are errors to clients; what a cell handles itself is not."""

from session import KernelTest


def text(error):
    return "\n".join(error["traceback"])


class Errors(KernelTest):
    def test_a_panic_names_its_message_and_the_line_in_the_cell(self):
        result = self.fails('println!("before");\nlet v = vec![1];\nlet i = 7;\nv[i];\nprintln!("after");')
        self.assertEqual(result.error["ename"], "panic")
        self.assertEqual(result.error["evalue"], "index out of bounds: the len is 1 but the index is 7")
        self.assertIn("line 4 of cell", text(result.error))
        self.assertIn("v[i];", text(result.error))
        self.assertEqual((result.out, result.err), ("before\n", ""))
        self.assertEqual(result.kinds, ["stream", "error"])

    def test_a_panic_in_a_function_of_an_earlier_cell_names_that_cell(self):
        count = self.ok('fn earlier() {\n    panic!("in {}", 1);\n}').reply["execution_count"]
        result = self.fails("let x = 1;\nearlier();")
        self.assertIn(f"line 2 of cell [{count}]", text(result.error))

    def test_a_panic_with_several_lines_keeps_them(self):
        result = self.fails('assert_eq!(1 + 1, 3, "sum");')
        self.assertEqual(result.error["evalue"], "assertion `left == right` failed: sum\n  left: 2\n right: 3")

    def test_a_question_mark_names_its_message_and_line(self):
        result = self.fails('let a = 1;\nlet n: i32 = "x".parse()?;\nprintln!("after");')
        self.assertEqual(result.error["evalue"], "invalid digit found in string")
        self.assertIn("line 2 of the cell", text(result.error))
        self.assertEqual((result.out, result.err), ("", ""))

    def test_what_was_written_to_stderr_before_an_error_stays(self):
        code = 'eprintln!("warning"); std::thread::sleep(std::time::Duration::from_millis(200)); '
        self.assertEqual(self.fails(code + 'panic!("p");').err, "warning\n")
        self.assertEqual(self.fails(code + 'Err::<(), _>("e")?;').err, "warning\n")

    def test_a_caught_panic_and_one_in_a_joined_thread_are_no_errors(self):
        result = self.ok('std::panic::catch_unwind(|| panic!("caught")).is_err()')
        self.assertEqual(result.plain, "true")
        self.assertIn("caught", result.err)
        self.assertEqual(self.ok('std::thread::spawn(|| panic!("other")).join().is_err()').plain, "true")

    def test_a_handled_error_is_none(self):
        self.assertEqual(self.ok('"x".parse::<i32>().is_err()').plain, "true")

    def test_a_resumed_panic_is_an_error(self):
        self.fails("std::panic::resume_unwind(Box::new(5));")

    def test_the_last_of_two_panics_is_the_one_that_ended_the_cell(self):
        result = self.fails('let _ = std::panic::catch_unwind(|| panic!("first")); panic!("second");')
        self.assertEqual(result.error["evalue"], "second")

    def test_compile_errors_are_the_compilers(self):
        result = self.fails('let a = 1 + "5";')
        self.assertIn("cannot add `&str` to `", result.contents("error")[0]["evalue"])
        self.assertIn("E0277", text(result.contents("error")[0]))
        result = self.fails('let größe: i32 = "fünf";')
        self.assertEqual(result.contents("error")[0]["evalue"], "mismatched types")
        self.assertIn("fünf", text(result.contents("error")[0]))

    def test_variables_outlive_errors(self):
        self.ok("let kept = vec![1, 2, 3];")
        self.fails('panic!("p");')
        self.fails('Err::<(), _>("e")?;')
        self.fails("let wrong: i32 = \"\";")
        self.assertEqual(self.ok("kept").plain, "[1, 2, 3]")

    def test_no_panic_shows_a_backtrace(self):
        self.assertNotIn("stack backtrace", text(self.fails('panic!("p")').error))

    def test_unknown_commands_and_dependencies_are_errors(self):
        self.assertIn("Unrecognised command", self.fails(":nonsense").error["evalue"])
        self.fails(":dep nonsense = { path = \"/nowhere\" }")

    def test_cells_queued_behind_an_error_are_aborted_unless_told_otherwise(self):
        client, session = self.session.client, self.session
        ids = [client.execute(code) for code in ("1", 'panic!("p")', "2", "3")]
        results = [session.result(message_id) for message_id in ids]
        self.assertEqual([result.status for result in results], ["ok", "error", "aborted", "aborted"])
        self.assertEqual(results[2].kinds, [])
        self.assertEqual(self.ok("4").plain, "4")
        ids = [client.execute('panic!("p")', stop_on_error=False), client.execute("2")]
        self.assertEqual([session.result(message_id).status for message_id in ids], ["error", "ok"])

    def test_a_cell_sent_when_the_error_is_known_is_not_aborted(self):
        for _ in range(10):
            message_id = self.session.client.execute("let x: i32 = ;")
            self.session.reply(message_id)
            self.ok("1")
            self.session.drain()


class Ends(KernelTest):
    """The process of the cells ends: an error, and a fresh process."""

    def expect_fresh(self, code, status, said=""):
        self.ok("let lost = 1;")
        result = self.fails(code)
        self.assertEqual(result.error["ename"], "ProcessEnded")
        self.assertIn(status, result.error["evalue"])
        self.assertIn(said, result.out + result.err)
        self.fails("lost")
        self.assertEqual(self.ok("41 + 1").plain, "42")

    def test_exit(self):
        self.expect_fresh('eprintln!("last words"); std::process::exit(3);', "exit status: 3", "last words")
        self.expect_fresh('print!("last words"); std::process::exit(0);', "exit status: 0", "last words")

    def test_abort_and_crash(self):
        self.expect_fresh('println!("last words"); std::process::abort();', "SIGABRT", "last words")
        self.expect_fresh('eprintln!("last words"); unsafe { *(8 as *mut u8) = 1; }', "SIGABRT", "last words")
        self.expect_fresh("fn f(x: u64) -> u64 { std::hint::black_box(f(x + 1)) + 1 } f(0);", "SIG")

    def test_a_panic_in_the_new_process_is_an_error(self):
        self.fails("std::process::exit(1);")
        result = self.fails('panic!("second life");')
        self.assertEqual((result.error["evalue"], result.err), ("second life", ""))

    def test_a_panic_inside_evcxr_is_an_error(self):
        # evcxr's issue 422.
        result = self.fails("let a = std::\n")
        self.assertEqual(self.ok("1 + 1").plain, "2")
        self.assertTrue(result.contents("error")[0]["evalue"])

    def test_restarts_and_clearing_by_command(self):
        self.ok("let a = 1;\nfn item() -> i32 { 5 }")
        self.ok(":restart")
        self.assertEqual(self.ok("item()").plain, "5")
        self.ok(":clear")
        self.fails("item()")
        self.assertEqual(self.ok("6").plain, "6")
        self.assertEqual(self.ok("()").kinds, [])
