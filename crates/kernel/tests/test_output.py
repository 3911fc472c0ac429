"""Outputs appear when they are made, in order, and whole."""

import json
import time

from session import KernelTest

FIGURE = '\nfn figure(kind: &str, id: &str) { println!("\\u{2}earlystop {{\\"type\\":\\"{kind}\\",\\"data\\":{{\\"image/png\\":\\"{id}\\"}},\\"metadata\\":{{\\"image/png\\":{{\\"width\\":5}}}},\\"transient\\":{{\\"display_id\\":\\"{id}\\"}}}}"); }'
SLEEP = "std::thread::sleep(std::time::Duration::from_millis(%d));"


class Output(KernelTest):
    def test_streams_are_in_order(self):
        result = self.ok('println!("o1"); ' + SLEEP % 100 + ' eprintln!("e1"); ' + SLEEP % 100 + ' println!("o2");')
        streams = [(content["name"], content["text"]) for content in result.contents("stream")]
        self.assertEqual(streams, [("stdout", "o1\n"), ("stderr", "e1\n"), ("stdout", "o2\n")])

    def test_a_figure_is_shown_updated_and_cleared_between_lines(self):
        self.ok(FIGURE)
        code = 'println!("one"); figure("display_data", "a"); println!("two"); figure("update_display_data", "a");\n'
        result = self.ok(code + r'println!("\u{2}earlystop {{\"type\":\"clear_output\",\"wait\":true}}");')
        self.assertEqual(result.kinds, ["stream", "display_data", "stream", "update_display_data", "clear_output"])
        shown = result.contents("display_data")[0]
        self.assertEqual(shown["transient"], {"display_id": "a"})
        self.assertEqual(shown["metadata"], {"image/png": {"width": 5}})
        self.assertEqual(result.contents("clear_output"), [{"wait": True}])
        self.assertEqual(result.out, "one\ntwo\n")

    def test_a_figure_appears_while_the_cell_runs(self):
        self.ok(FIGURE)
        result = self.ok('figure("display_data", "a"); ' + SLEEP % 1000)
        at = next(t for (kind, _), t in zip(result.messages, result.received) if kind == "display_data")
        self.assertGreater(result.received[-1] - at, 0.7)

    def test_a_figure_behind_a_begun_line(self):
        self.ok(FIGURE)
        result = self.ok('print!("50 %"); figure("display_data", "a");')
        self.assertEqual((result.kinds, result.out), (["stream", "display_data"], "50 %"))

    def test_text_without_a_lines_end_appears_at_once_and_in_its_own_cell(self):
        result = self.ok('for i in 0..3 { print!("\\r{i} %"); ' + SLEEP % 300 + "}")
        self.assertEqual(result.out, "\r0 %\r1 %\r2 %")
        self.assertGreaterEqual(len(result.contents("stream")), 3)
        self.assertEqual(self.ok('println!("next")').out, "next\n")

    def test_what_looks_like_the_kernels_own_lines_does_not_stop_a_cell(self):
        self.assertEqual(self.ok(r'println!("\u{2}earlystop nonsense");').out, "nonsense\n")
        self.assertIn("half", self.ok('println!("EVCXR_BEGIN_CONTENT text/html\\nhalf");').out)
        result = self.ok('print!("EVCX"); ' + SLEEP % 100 + ' println!("R_ is printed");')
        self.assertEqual(result.out, "EVCXR_ is printed\n")
        self.assertEqual(self.ok("1").plain, "1")

    def test_evcxrs_rich_outputs_are_all_shown(self):
        show = r'println!("EVCXR_BEGIN_CONTENT %s\n%s\nEVCXR_END_CONTENT");'
        result = self.ok(show % ("text/html", "<b>") + show % ("text/html", "<i>") + 'println!("x");' + show % ("image/png", "00"))
        shown = [content["data"] for content in result.contents("display_data")]
        self.assertEqual(shown, [{"text/html": "<b>"}, {"text/html": "<i>"}, {"image/png": "00"}])
        self.assertEqual(result.kinds, ["display_data", "display_data", "stream", "display_data"])
        result = self.ok(show % ("image/png", "00") + show % ("text/html", "<img>") + "7")
        self.assertEqual(result.contents("display_data")[0]["data"], {"image/png": "00", "text/html": "<img>"})
        self.assertEqual(result.plain, "7")

    def test_values(self):
        self.assertEqual(self.ok("vec![Some(1)]").plain, "[Some(1)]")
        self.assertEqual(self.ok('"text"').plain, '"text"')
        self.assertEqual(self.ok("()").kinds, [])
        self.assertEqual(self.ok("let unsized_: &[i32] = &[1, 2]; unsized_[..]").plain, "[1, 2]")
        own = 'println!("EVCXR_BEGIN_CONTENT text/html\\nown\\nEVCXR_END_CONTENT");'
        self.ok("#[derive(Debug)]\nstruct Own;\nimpl Own { fn evcxr_display(&self) { %s } }" % own)
        self.assertEqual(self.ok("Own").contents("display_data")[0]["data"], {"text/html": "own"})
        self.assertIn("Debug", str(self.fails("struct Nothing; Nothing").messages))
        self.ok(":fmt {:#?}")
        self.assertEqual(self.ok("Some(1)").plain, "Some(\n    1,\n)")
        self.ok(":fmt {:?}")
        self.assertIn("x: i32", self.ok("let x = 1i32;\n").reply["status"] + self.ok(":vars").plain)
        # With a trait of the cells' own evcxr shows nothing else.
        self.ok("trait Show { fn evcxr_display(&self); }\nimpl Show for Vec<u8> { fn evcxr_display(&self) { %s } }" % own)
        self.assertEqual(self.ok("vec![1u8]").contents("display_data")[0]["data"], {"text/html": "own"})
        self.ok(":clear")

    def test_100_000_lines_lose_nothing(self):
        result = self.ok('for i in 0..100_000 { println!("{i}"); if i % 1000 == 0 { eprintln!("{i}"); } }')
        self.assertEqual(result.out, "".join(f"{i}\n" for i in range(100_000)))
        self.assertEqual(result.err, "".join(f"{i}\n" for i in range(0, 100_000, 1000)))

    def test_a_picture_of_5_mb_loses_nothing(self):
        self.ok(FIGURE)
        result = self.ok('figure("display_data", &"x".repeat(7_000_000));')
        self.assertEqual(len(result.contents("display_data")[0]["data"]["image/png"]), 7_000_000)

    def test_output_of_a_thread_after_its_cell_is_kept(self):
        message_id = self.session.client.execute("std::thread::spawn(|| { " + SLEEP % 300 + ' println!("late"); });')
        self.session.result(message_id)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            message = self.session.client.get_iopub_msg(timeout=10)
            if message["msg_type"] == "stream":
                self.assertEqual(message["content"]["text"], "late\n")
                self.assertEqual(message["parent_header"]["msg_id"], message_id)
                return
        self.fail("nothing was printed")

    def test_what_a_program_prints_that_a_cell_has_started(self):
        self.assertEqual(self.ok('std::process::Command::new("echo").arg("hello").status().unwrap();').out, "hello\n")
        self.assertIn("hello", json.dumps(self.ok("!echo hello").messages))
