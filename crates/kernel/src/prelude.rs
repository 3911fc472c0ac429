//! The code that the kernel runs in each new cell process before the first cell.
//!
//! - A trait that displays the value of an expression. evcxr first tries the method `evcxr_display` of the value's type and
//!   compiles the cell a second time if there is none. An inherent method still takes precedence over the trait.
//! - A thread that flushes standard output, so that text printed without a newline appears.

use crate::output::RESULT;
use crate::records::{FLUSHER, SOCKET};
use crate::syntax;

/// The settings made by evcxr's commands that the trait follows.
#[derive(Debug, PartialEq)]
pub(crate) struct Prelude {
    /// `:fmt`
    format: String,
    /// `:types`
    types: bool,
    /// Whether another trait with the method `evcxr_display` may be in scope: two such traits would be ambiguous.
    yields: bool,
}

impl Default for Prelude {
    fn default() -> Self {
        Self { format: "{:?}".into(), types: false, yields: false }
    }
}

impl Prelude {
    /// Returns the trait. It has no implementation if values are displayed by more than their `Debug`.
    pub(crate) fn items(&self) -> String {
        let is_debug = self.format.ends_with("?}") && !self.format.contains(['"', '\\']);
        if self.types || self.yields || !is_debug {
            // Falls back to evcxr's own display.
            return "trait EarlystopDisplay {}".into();
        }
        let format = &self.format;
        format!(
            r#"
trait EarlystopDisplay {{ fn evcxr_display(&self); }}
impl<T: std::fmt::Debug + ?Sized> EarlystopDisplay for T {{
    fn evcxr_display(&self) {{
        if std::any::type_name::<Self>() != "()" {{
            println!("EVCXR_BEGIN_CONTENT text/plain {RESULT}\n{{}}\nEVCXR_END_CONTENT", format_args!("{format}", self));
        }}
    }}
}}
"#
        )
    }

    /// Returns the code that starts the thread.
    pub(crate) fn flusher() -> String {
        let byte = char::from(FLUSHER);
        format!(
            r#"
std::thread::spawn(|| {{
    use std::io::{{ErrorKind, Read, Write}};
    let Some(path) = std::env::var_os("{SOCKET}") else {{ return }};
    let Ok(mut kernel) = std::os::unix::net::UnixStream::connect(path) else {{ return }};
    let _ = kernel.write_all(b"{byte}");
    let _ = kernel.set_read_timeout(Some(std::time::Duration::from_millis(50)));
    loop {{
        let asked = kernel.read(&mut [0]);
        let _ = std::io::stdout().flush();
        match asked {{
            Ok(0) => return,
            Ok(_) => {{ let _ = kernel.write_all(b"."); }}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {{}}
            Err(_) => return,
        }}
    }}
}});
"#
        )
    }

    /// Yields to other traits from the first cell on that may define or import one. Returns whether the trait changed.
    pub(crate) fn give_way(&mut self, code: &str) -> bool {
        // `evcxr_display`, or a crate such as `evcxr_image`.
        let begins = !self.yields && code.contains("evcxr_");
        self.yields |= begins;
        begins
    }

    /// Follows the commands of a cell. Returns whether the trait must be compiled again.
    pub(crate) fn follow(&mut self, code: &str) -> bool {
        let before = (self.format.clone(), self.types);
        let mut cleared = false;
        for (command, argument) in syntax::command_lines(code) {
            match command {
                ":fmt" => self.format = if argument.is_empty() { "{:?}".into() } else { argument.to_owned() },
                ":types" => self.types = !self.types,
                ":clear" => cleared = true,
                _ => {}
            }
        }
        cleared || before != (self.format.clone(), self.types)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trait_gives_way_once() {
        let mut prelude = Prelude::default();
        assert!(!prelude.give_way("1 + 1") && prelude.items().contains("impl"));
        assert!(prelude.give_way("use evcxr_image::ImageDisplay;") && !prelude.give_way("evcxr_display"));
        assert!(!prelude.items().contains("impl"));
    }

    #[test]
    fn the_trait_follows_the_commands_that_evcxr_has_for_values() {
        let mut prelude = Prelude::default();
        assert!(!prelude.follow("1 + 1") && !prelude.follow(":dep x"));
        assert!(prelude.follow(":fmt {:#?}\n1") && prelude.items().contains("\"{:#?}\", self"));
        assert!(prelude.follow(":fmt") && prelude == Prelude::default());
        assert!(prelude.follow(":fmt {}") && !prelude.items().contains("impl") && prelude.follow(":fmt {:?}"));
        assert!(prelude.follow(":types") && !prelude.items().contains("impl"));
        assert!(prelude.follow(":types") && prelude.follow(":clear") && prelude == Prelude::default());
    }
}
