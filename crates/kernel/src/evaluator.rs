//! The thread that owns evcxr and processes one job after another. A panic inside evcxr fails only the current job.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evcxr::{CommandContext, CompilationError, EvalCallbacks, EvalContext};
use serde_json::{Value, json};

use crate::code_points::{end_of_name, from_byte, to_byte};
use crate::failure::Failure;
use crate::prelude::Prelude;
use crate::records::SOCKET;

/// A job for evcxr.
pub(crate) enum Job {
    Execute {
        code: String,
        count: u32,
    },
    Complete {
        code: String,
        position: usize,
    },
    Inspect {
        code: String,
        position: usize,
    },
    /// Returns the compiler's messages for a cell without running it.
    Check {
        code: String,
    },
}

/// The result of a job.
pub(crate) enum Answer {
    Executed(Executed),
    /// The content of a reply.
    Content(Value),
}

/// The result of executing a cell.
#[derive(Default)]
pub(crate) struct Executed {
    /// The outputs of evcxr's commands: representations by MIME type.
    pub(crate) shown: Vec<Vec<(String, String)>>,
    pub(crate) failures: Vec<Failure>,
    /// Whether the cell process exited.
    pub(crate) ended: bool,
    /// The source that was compiled last.
    pub(crate) source: String,
}

/// A cell's request for a line of input.
pub(crate) struct Question {
    pub(crate) prompt: String,
    pub(crate) is_password: bool,
    pub(crate) answer: Sender<String>,
}

/// What the evaluator reports.
pub(crate) enum Event {
    /// The execution of a cell has started.
    Begun,
    Answer(Answer),
    Question(Question),
}

/// The paths that the cell process needs to know.
pub(crate) struct Paths {
    pub(crate) socket: PathBuf,
    pub(crate) interrupt: PathBuf,
}

/// Starts the thread. It ends when the returned sender is dropped.
pub(crate) fn start(paths: Paths, tell: impl Fn(Event) + Send + 'static) -> std::io::Result<Sender<Job>> {
    let (sender, jobs) = channel();
    let evaluator = Evaluator {
        paths,
        tell: Box::new(tell),
        context: None,
        prelude: Prelude::default(),
        process: None,
        is_trait_old: false,
    };
    std::thread::Builder::new().name("evcxr".into()).stack_size(64 << 20).spawn(move || evaluator.run(&jobs))?;
    Ok(sender)
}

struct Evaluator {
    paths: Paths,
    tell: Box<dyn Fn(Event) + Send>,
    /// `None` until evcxr was started successfully.
    context: Option<Context>,
    prelude: Prelude,
    /// The cell process in which the preludes were run.
    process: Option<u32>,
    is_trait_old: bool,
}

struct Context {
    evcxr: CommandContext,
    process: Arc<Mutex<Child>>,
}

impl Context {
    /// Returns the id of evcxr's cell process, which is the relay.
    fn process(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).id()
    }
}

impl Evaluator {
    fn run(mut self, jobs: &Receiver<Job>) {
        let started = self.start();
        if let Err(error) = &started {
            eprintln!("evcxr could not be started: {error}");
        }
        let mut is_cold = true;
        loop {
            // rust-analyzer takes two seconds to load the standard library for the first `let`. Load it while idle.
            let wait = if is_cold { Duration::from_millis(200) } else { Duration::MAX };
            match jobs.recv_timeout(wait) {
                Ok(job) => {
                    let answer = self.answer(job);
                    (self.tell)(Event::Answer(answer));
                    self.follow_up();
                }
                Err(RecvTimeoutError::Timeout) => {
                    is_cold = false;
                    let _ = self.guarded(|context| context.completions("let warm = vec![1];\nwarm.le", 27).map(drop));
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn answer(&mut self, job: Job) -> Answer {
        match job {
            Job::Execute { code, count } => Answer::Executed(self.execute(&code, count)),
            Job::Complete { code, position } => Answer::Content(self.complete(&code, position)),
            Job::Inspect { code, position } => Answer::Content(self.inspect(&code, position)),
            Job::Check { code } => Answer::Content(self.check(&code)),
        }
    }

    /// Starts evcxr.
    fn start(&mut self) -> Result<(), String> {
        let program =
            std::env::current_exe().map_err(|error| format!("could not find the kernel's program: {error}"))?;
        let mut cells = Command::new(program);
        cells.env(SOCKET, &self.paths.socket);
        cells.env("EARLYSTOP_INTERRUPT_FILE", &self.paths.interrupt);
        cells.env("EARLYSTOP_FRONT", "1");
        let started = catch_unwind(AssertUnwindSafe(|| EvalContext::with_subprocess_command(cells)));
        // The relay sends all output of cells to the kernel. Only the relay's own messages arrive through evcxr.
        let (evcxr, outputs) = started.map_err(panic_message)?.map_err(|error| error.to_string())?;
        std::thread::spawn(move || outputs.stderr.into_iter().for_each(|line| eprintln!("{line}")));
        let evcxr = CommandContext::with_eval_context(evcxr);
        self.context = Some(Context { process: evcxr.process_handle(), evcxr });
        self.run_preludes()
    }

    /// Runs the user's configuration and the kernel's prelude in a new cell process.
    fn run_preludes(&mut self) -> Result<(), String> {
        for code in [":load_config --quiet", &(self.prelude.items() + &Prelude::flusher())] {
            self.guarded(|context| context.execute(code))?.map_err(|error| error.to_string())?;
        }
        self.process = self.context.as_ref().map(Context::process);
        self.is_trait_old = false;
        Ok(())
    }

    fn execute(&mut self, code: &str, count: u32) -> Executed {
        let mut executed = Executed::default();
        (self.tell)(Event::Begun);
        if self.paths.interrupt.exists() {
            // The stop button was pressed while a new process was being prepared.
            return executed;
        }
        if self.context.is_none()
            && let Err(error) = self.start()
        {
            executed.failures.push(Failure::new("StartError", format!("evcxr could not be started: {error}")));
            return executed;
        }
        if self.prelude.give_way(code) {
            self.is_trait_old = true;
            self.follow_up();
        }
        let Some(context) = &mut self.context else { return executed };
        let (tell, evcxr) = (&self.tell, &mut context.evcxr);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut callbacks = EvalCallbacks {
                input_reader: &|request| {
                    let (answer, line) = channel();
                    tell(Event::Question(Question {
                        prompt: request.prompt,
                        is_password: request.is_password,
                        answer,
                    }));
                    line.recv().unwrap_or_default()
                },
            };
            evcxr.execute_with_callbacks(code, &mut callbacks)
        }));
        executed.source = evcxr.last_source().unwrap_or_default();
        match result {
            Ok(Ok(outputs)) => {
                executed.shown.extend(in_order(outputs.content_by_mime_type));
                let time = outputs.timing.map(|time| format!("Took {} ms", time.as_millis()));
                executed.shown.extend(time.map(|time| vec![("text/plain".into(), time)]));
            }
            Ok(Err(error)) => {
                executed.ended = matches!(error, evcxr::Error::SubprocessTerminated(_));
                executed.failures = Failure::of_evcxr(&error, code, count);
            }
            Err(panic) => {
                let what = panic_message(panic);
                let message =
                    format!("evcxr panicked: {what}\nThe cell process was restarted and all variables are lost.");
                executed.failures.push(Failure::new("KernelPanic", message));
                // Keep evcxr's items and dependencies if possible.
                if !matches!(self.guarded(|context| context.execute(":restart")), Ok(Ok(_))) {
                    self.context = None;
                }
            }
        }
        self.is_trait_old |= self.prelude.follow(code);
        executed
    }

    /// Runs the preludes if there is a new cell process, and compiles the trait again if it changed.
    fn follow_up(&mut self) {
        let Some(context) = &self.context else { return };
        let done = if self.process != Some(context.process()) {
            self.run_preludes()
        } else if self.is_trait_old {
            self.is_trait_old = false;
            let items = self.prelude.items();
            self.guarded(|context| context.execute(&items))
                .and_then(|done| done.map(drop).map_err(|error| error.to_string()))
        } else {
            Ok(())
        };
        if let Err(error) = done {
            eprintln!("could not prepare the cell process: {error}");
        }
    }

    /// Calls evcxr and turns a panic into an error.
    fn guarded<R>(&mut self, action: impl FnOnce(&mut CommandContext) -> R) -> Result<R, String> {
        let context = self.context.as_mut().ok_or("evcxr is not started")?;
        catch_unwind(AssertUnwindSafe(|| action(&mut context.evcxr))).map_err(panic_message)
    }

    fn complete(&mut self, code: &str, position: usize) -> Value {
        let found = self.guarded(|context| context.completions(code, to_byte(code, position)));
        let completions = match found {
            Ok(Ok(completions)) => completions,
            // Cells that cannot be analyzed have no completions.
            _ => evcxr::Completions {
                start_offset: to_byte(code, position),
                end_offset: to_byte(code, position),
                ..Default::default()
            },
        };
        let start = from_byte(code, completions.start_offset);
        let end = from_byte(code, completions.end_offset);
        let matches: Vec<&str> = completions.completions.iter().map(|found| found.code.as_str()).collect();
        let types: Vec<Value> = completions
            .completions
            .iter()
            .map(|found| json!({"text": found.label, "type": found.kind, "start": start, "end": end}))
            .collect();
        json!({
            "status": "ok", "matches": matches, "cursor_start": start, "cursor_end": end,
            "metadata": {"_jupyter_types_experimental": types},
        })
    }

    fn inspect(&mut self, code: &str, position: usize) -> Value {
        let end = end_of_name(code, to_byte(code, position));
        match self.guarded(|context| context.hover_at(code, end)) {
            Ok(Ok((plain, html))) if plain != "No documentation found" => json!({
                "status": "ok", "found": true, "data": {"text/plain": plain, "text/html": html}, "metadata": {},
            }),
            _ => json!({"status": "ok", "found": false, "data": {}, "metadata": {}}),
        }
    }

    fn check(&mut self, code: &str) -> Value {
        let problems = self.guarded(|context| context.check(code).unwrap_or_default()).unwrap_or_default();
        let describe = |problem: &CompilationError| {
            let spanned = problem.primary_spanned_message()?;
            let span = spanned.span?;
            let mut lines = vec![problem.message()];
            lines.extend((!spanned.label.is_empty()).then(|| spanned.label.clone()));
            lines.extend(problem.help().iter().map(|help| format!("help: {help}")));
            Some(json!({
                "message": lines.join("\n"), "severity": problem.level(),
                "start_line": span.start_line, "start_column": span.start_column,
                "end_line": span.end_line, "end_column": span.end_column,
            }))
        };
        json!({"problems": problems.iter().filter_map(describe).collect::<Vec<_>>()})
    }
}

/// Returns the representations in a fixed order, or `None` if there are none.
fn in_order(content: HashMap<String, String>) -> Option<Vec<(String, String)>> {
    let mut content: Vec<(String, String)> = content.into_iter().collect();
    content.sort();
    (!content.is_empty()).then_some(content)
}

fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}
