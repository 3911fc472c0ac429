//! Syntax checks: whether a cell is complete, its commands, and the positions of its `?` operators.

use ra_ap_parser::LexedStr;
use ra_ap_syntax::ast::{self, AstNode as _};
use ra_ap_syntax::{Edition, Parse, SourceFile, SyntaxKind, SyntaxNode};

const HEAD: &str = "fn f(){";

/// The answer to an `is_complete_request`.
#[derive(Debug, PartialEq)]
pub(crate) enum Completeness {
    Complete,
    /// Lines are missing; the next one should be indented by this.
    Incomplete(String),
    Invalid,
}

/// Returns the length of the leading command lines such as `:dep`, including blank lines and comments.
fn commands(code: &str) -> usize {
    let is_own = |line: &&str| {
        let text = line.trim();
        text.is_empty()
            || line.starts_with("//")
            || line.starts_with('!')
            || line.trim_start_matches(' ').starts_with(':')
    };
    code.split_inclusive('\n').take_while(is_own).map(str::len).sum()
}

/// Returns evcxr's commands at the start of a cell, each with its arguments.
pub(crate) fn command_lines(code: &str) -> impl Iterator<Item = (&str, &str)> {
    let head = &code[..commands(code)];
    head.lines().filter_map(|line| {
        let line = line.trim();
        line.starts_with(':').then(|| line.split_once(' ').unwrap_or((line, "")))
    })
}

fn parse(rust: &str) -> Parse<SourceFile> {
    SourceFile::parse(&format!("{HEAD}{rust}\n}}"), Edition::Edition2024)
}

/// Checks whether a cell can be run, is missing lines, or is invalid.
pub(crate) fn completeness(code: &str) -> Completeness {
    let rust = &code[commands(code)..];
    let (open, wrong) = brackets(rust);
    if wrong {
        return Completeness::Invalid;
    }
    if open > 0 {
        return Completeness::Incomplete("    ".repeat(open));
    }
    let parsed = parse(rust);
    let errors = parsed.errors();
    if errors.is_empty() {
        return Completeness::Complete;
    }
    // Code that ends too early can be continued: `let x =`, `a +`, `impl A for B`.
    let end = rust.trim_end().len() + HEAD.len();
    if errors.iter().all(|error| usize::from(error.range().end()) >= end) && !rust.trim_end().ends_with([';', '}']) {
        Completeness::Incomplete(String::new())
    } else {
        Completeness::Invalid
    }
}

/// Returns the number of open brackets, comments and strings, and whether a bracket is closed that is not open.
fn brackets(rust: &str) -> (usize, bool) {
    let mut open = Vec::new();
    let lexed = LexedStr::new(Edition::Edition2024, rust);
    for index in 0..lexed.len() {
        match lexed.kind(index) {
            SyntaxKind::L_CURLY => open.push(SyntaxKind::R_CURLY),
            SyntaxKind::L_PAREN => open.push(SyntaxKind::R_PAREN),
            SyntaxKind::L_BRACK => open.push(SyntaxKind::R_BRACK),
            close @ (SyntaxKind::R_CURLY | SyntaxKind::R_PAREN | SyntaxKind::R_BRACK) if open.pop() != Some(close) => {
                return (open.len(), true);
            }
            _ => {}
        }
    }
    // A string or comment that reaches the end. An unterminated character is invalid, as it cannot span lines.
    let goes_on = |message: &str| {
        message.starts_with("Invalid raw string") || message.starts_with("Missing trailing") && !message.contains("`'`")
    };
    let unterminated = lexed.errors().any(|(token, message)| token + 1 == lexed.len() && goes_on(message));
    (open.len() + usize::from(unterminated), false)
}

/// Returns the lines of a cell, from 1, that contain a `?` which can end the cell.
pub(crate) fn question_marks(code: &str) -> Vec<usize> {
    let head = commands(code);
    let is_elsewhere = |node: &SyntaxNode| {
        matches!(node.kind(), SyntaxKind::CLOSURE_EXPR)
            || ast::Item::can_cast(node.kind())
            || ast::BlockExpr::cast(node.clone()).is_some_and(|block| {
                block.modifier().is_some_and(|modifier| !matches!(modifier, ast::BlockModifier::Unsafe(_)))
            })
    };
    let tree = parse(&code[head..]).syntax_node();
    let Some(cell) = tree.children().find_map(ast::Fn::cast).and_then(|function| function.body()) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for mark in cell.syntax().descendants().filter_map(ast::TryExpr::cast) {
        let mut outside = mark.syntax().ancestors().skip(1).take_while(|node| node != cell.syntax());
        if outside.any(|node| is_elsewhere(&node)) {
            continue;
        }
        let Some(token) = mark.question_mark_token() else { continue };
        let at = head + usize::from(token.text_range().start()) - HEAD.len();
        lines.push(code[..at].lines().count().max(1) + usize::from(code[..at].ends_with('\n')));
    }
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_cells() {
        for code in [
            "",
            "1 + 1",
            "let x = 1;",
            ":dep tch",
            ":vars\n// and\nlet x = 1;",
            "fn f() {\n}",
            "if a { b } else { c }",
            "// a comment",
            "\"a { text\"",
            "'{'",
            "/* { */",
            "use std::fmt;",
            "#[derive(Debug)]\nstruct A;",
            "!ls -l (",
            "a?",
        ] {
            assert_eq!(completeness(code), Completeness::Complete, "{code}");
        }
    }

    #[test]
    fn cells_that_go_on() {
        for code in [
            "fn f() {",
            "let v = vec![1,",
            "let x =",
            "1 +",
            "\"begun",
            "/* begun",
            "foo(",
            "r#\"begun",
            "let x = match y {\n  1 => 2,",
        ] {
            assert!(matches!(completeness(code), Completeness::Incomplete(_)), "{code}: {:?}", completeness(code));
        }
        assert_eq!(completeness("fn f() {\n  if a {"), Completeness::Incomplete("        ".into()));
    }

    #[test]
    fn cells_that_nothing_makes_right() {
        for code in ["let = 1;", "}", "foo)", "(]", "fn 1() {}", "let x y = 2;"] {
            assert_eq!(completeness(code), Completeness::Invalid, "{code}");
        }
    }

    #[test]
    fn the_question_marks_of_the_cell_itself_are_found() {
        let code = ":dep x\nlet a: i32 = \"1\".parse()?;\nfn f() -> Option<()> { None? }\nlet g = || { f()?; Some(()) };\n\
            {\n    unsafe { h()?; }\n}\n\"?\"";
        assert_eq!(question_marks(code), [2, 6]);
        assert!(question_marks("}?").is_empty());
    }

    #[test]
    fn commands_stand_at_the_head_only() {
        let code = "// x\n:dep a = \"1\"\n\n :opt 2\nlet x = 1;\n:vars";
        assert_eq!(command_lines(code).collect::<Vec<_>>(), [(":dep", "a = \"1\""), (":opt", "2")]);
    }
}
