//! The command `earlystop`: lists, compares, verifies, averages and prunes the checkpoints of a training.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};

mod commands;
mod elements;
mod failure;
mod folder;
mod opened;
mod output;
mod run;
mod target;
mod text;

use commands::{average, diff, export, history, list, prune, replay, show, verify};
use failure::{Answer, Result};
use output::Output;

/// Lists, compares, verifies, averages and prunes the checkpoints of a training
///
/// Works with every safetensors file, also with those of other programs and those in several files
/// (`model.safetensors.index.json`), and is safe to use while a training writes them.
#[derive(Debug, Parser)]
#[command(
    name = "earlystop",
    version,
    after_help = "\
Exit status:
  0  all is fine
  1  the answer is no: damaged, different, or nothing found
  2  wrong usage, or a file cannot be read or written

Examples:
  earlystop list checkpoints/run1
  earlystop show checkpoints/run1
  earlystop help diff"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    /// When to use colors; NO_COLOR in the environment turns them off, too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Args),
    Show(show::Args),
    Diff(diff::Args),
    Verify(verify::Args),
    History(history::Args),
    Replay(replay::Args),
    Prune(prune::Args),
    Average(average::Args),
    Export(export::Args),
    /// Print a script that completes this command in your shell
    #[command(after_help = "\
Examples:
  earlystop completions bash
  earlystop completions zsh")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let color = match cli.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    };
    let mut output = Output::new(color, cli.json);
    let result = dispatch(cli.command, &mut output);
    // What was printed before a failure is printed all the same.
    let finished = output.finish();
    failure::end(result.and_then(|answer| finished.map(|()| answer)))
}

fn dispatch(command: Command, output: &mut Output) -> Result<Answer> {
    match command {
        Command::List(args) => list::run(&args, output),
        Command::Show(args) => show::run(&args, output),
        Command::Diff(args) => diff::run(&args, output),
        Command::Verify(args) => verify::run(&args, output),
        Command::History(args) => history::run(&args, output),
        Command::Replay(args) => replay::run(&args, output),
        Command::Prune(args) => prune::run(&args, output),
        Command::Average(args) => average::run(&args, output),
        Command::Export(args) => export::run(&args, output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "earlystop", &mut script);
            output.raw(&script)?;
            Ok(Answer::Fine)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a line as a shell does: at spaces that are not quoted.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut is_quoted) = (vec![String::new()], false);
        for character in line.chars() {
            match character {
                '\'' => is_quoted = !is_quoted,
                ' ' if !is_quoted => words.push(String::new()),
                _ => words.last_mut().unwrap().push(character),
            }
        }
        words
    }

    #[test]
    fn every_example_of_the_help_can_be_parsed() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut helps = vec![command.get_after_help().unwrap().to_string()];
        for command in command.get_subcommands() {
            let help = command.get_after_help().unwrap_or_else(|| panic!("{} has no examples", command.get_name()));
            assert!(help.to_string().contains(&format!("\n  earlystop {} ", command.get_name())));
            helps.push(help.to_string());
        }
        let examples: Vec<_> =
            helps.iter().flat_map(|help| help.lines()).filter(|line| line.starts_with("  earlystop ")).collect();
        assert!(examples.len() > 20, "{examples:?}");
        for example in examples.into_iter().filter(|example| !example.contains(" help ")) {
            let command = example.trim_start().split(" | ").flat_map(|part| part.split(" && ")).next().unwrap();
            Cli::try_parse_from(words(command)).unwrap_or_else(|error| panic!("{example}: {error}"));
        }
    }
}
