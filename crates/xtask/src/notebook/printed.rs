//! Reads the lines that the tutorial prints, and holds them against each other: a percentage against its counts,
//! a confusion matrix against the accuracy above it, the stars against the accuracies beside them.

use regex_lite::{Captures, Regex};

use super::confusion_matrix::ConfusionMatrix;
use super::ipynb::{Cell, Notebook};
use super::problem::Problem;

/// `Accuracy on Test-Set: 98.4% (9842 / 10000)`
#[derive(Debug, PartialEq)]
pub(super) struct TestAccuracy {
    pub(super) percent: f64,
    pub(super) correct: u64,
    pub(super) total: u64,
}

/// `Iter:    100, Train-Batch Accuracy:  84.4%, Validation Acc:  85.2% *`
#[derive(Debug, PartialEq)]
pub(super) struct Progress {
    pub(super) iteration: u64,
    pub(super) validation_percent: f64,
    pub(super) improved: bool,
}

/// `Mean: 0.00880, Stdev: 0.28635`
#[derive(Debug, PartialEq)]
pub(super) struct WeightStatistics {
    pub(super) mean: f64,
    pub(super) stdev: f64,
}

/// What a cell printed, one entry a line, in order.
pub(super) struct Printed {
    pub(super) accuracies: Vec<TestAccuracy>,
    pub(super) progress: Vec<Progress>,
    pub(super) weights: Vec<WeightStatistics>,
    text: String,
}

/// Checks all that is printed in the tutorial's formats, in any notebook.
pub(super) fn check(notebook: &Notebook) -> Vec<Problem> {
    let of_cell =
        |place: (usize, &Cell)| Printed::of(place.1).check().map_err(|message| Problem::in_cell(place, message));
    notebook.code().filter_map(|place| of_cell(place).err()).collect()
}

impl Printed {
    pub(super) fn of(cell: &Cell) -> Self {
        Self::parse(cell.stream("stdout"))
    }

    fn parse(text: String) -> Self {
        Self {
            accuracies: all(&text, r"^Accuracy on Test-Set: (\d+\.\d)% \((\d+) / (\d+)\)$", |found| TestAccuracy {
                percent: number(&found[1]),
                correct: number(&found[2]),
                total: number(&found[3]),
            }),
            // The widths are those of Python's {:>6} and {:>6.1%}; without a star the line may end in a space.
            progress: all(
                &text,
                r"^Iter: ([ \d]{5}\d), Train-Batch Accuracy: [ \d]{3}\.\d%, Validation Acc: ([ \d]{3}\.\d)%( \*?)?$",
                |found| Progress {
                    iteration: number(&found[1]),
                    validation_percent: number(&found[2]),
                    improved: found.get(3).is_some_and(|mark| mark.as_str() == " *"),
                },
            ),
            weights: all(&text, r"^Mean: (-?\d+\.\d{5}), Stdev: (\d+\.\d{5})$", |found| WeightStatistics {
                mean: number(&found[1]),
                stdev: number(&found[2]),
            }),
            text,
        }
    }

    fn check(&self) -> Result<(), String> {
        for (start, parsed) in [
            ("Accuracy on Test-Set:", self.accuracies.len()),
            ("Iter:", self.progress.len()),
            ("Mean:", self.weights.len()),
        ] {
            let printed = self.text.lines().filter(|line| line.starts_with(start));
            if printed.clone().count() != parsed {
                let lines: Vec<&str> = printed.collect();
                return Err(format!("not the tutorial's format:\n{}", lines.join("\n")));
            }
        }
        self.accuracies.iter().try_for_each(TestAccuracy::check)?;
        check_progress(&self.progress)?;
        let Some(matrix) = ConfusionMatrix::find(&self.text)? else {
            return Ok(());
        };
        let Some(accuracy) = self.accuracies.last() else {
            return Ok(());
        };
        matrix.check_against(accuracy.correct, accuracy.total)
    }
}

impl TestAccuracy {
    fn check(&self) -> Result<(), String> {
        let exact = 100.0 * self.correct as f64 / self.total as f64;
        // Half a unit of the printed digit, and what binary fractions are off.
        if (self.percent - exact).abs() <= 0.05 + 1e-9 {
            return Ok(());
        }
        Err(format!("prints {}% for {} of {}", self.percent, self.correct, self.total))
    }
}

/// A star stands where the validation accuracy is the best so far. At one printed digit a better value can look equal.
fn check_progress(progress: &[Progress]) -> Result<(), String> {
    if let Some(pair) = progress.windows(2).find(|pair| pair[0].iteration >= pair[1].iteration) {
        return Err(format!("iteration {} is printed after {}", pair[1].iteration, pair[0].iteration));
    }
    // The best of earlier cells is not printed here: until the first star nothing can be said.
    let starred = progress.iter().skip_while(|line| !line.improved);
    let mut best: f64 =
        progress.iter().take_while(|line| !line.improved).map(|line| line.validation_percent).fold(0.0, f64::max);
    for line in starred {
        let Progress { iteration, validation_percent: found, improved } = *line;
        if improved && found < best {
            return Err(format!("iteration {iteration} has a star at {found}%, below {best}%"));
        }
        if !improved && found > best {
            return Err(format!("iteration {iteration} has no star at {found}%, above {best}%"));
        }
        best = best.max(found);
    }
    Ok(())
}

fn all<T>(text: &str, pattern: &str, read: impl Fn(&Captures) -> T) -> Vec<T> {
    let pattern = Regex::new(pattern).expect("the patterns above are valid");
    text.lines().filter_map(|line| pattern.captures(line)).map(|found| read(&found)).collect()
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(digits: &str) -> T {
    digits.trim().parse().expect("the patterns above let only numbers through")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
Iter:    100, Train-Batch Accuracy:  84.4%, Validation Acc:  85.2% *
Iter:    200, Train-Batch Accuracy: 100.0%, Validation Acc:  85.2% *
Iter:    300, Train-Batch Accuracy:  98.4%, Validation Acc:  85.2%
Iter:    400, Train-Batch Accuracy:  98.4%, Validation Acc:  84.9% 
";

    fn found(text: &str) -> Result<(), String> {
        Printed::parse(text.to_owned()).check()
    }

    #[test]
    fn the_tutorials_lines_are_read() {
        let printed =
            Printed::parse(format!("{LOG}Accuracy on Test-Set: 8.5% (849 / 10000)\nMean: -0.01086, Stdev: 0.28023\n"));
        assert_eq!(printed.check(), Ok(()));
        assert_eq!(printed.progress.len(), 4);
        assert_eq!(printed.progress[1], Progress { iteration: 200, validation_percent: 85.2, improved: true });
        assert!(!printed.progress[3].improved);
        assert_eq!(printed.accuracies, [TestAccuracy { percent: 8.5, correct: 849, total: 10_000 }]);
        assert_eq!(printed.weights, [WeightStatistics { mean: -0.01086, stdev: 0.28023 }]);
    }

    #[test]
    fn lines_in_another_format_are_shown() {
        for line in [
            "Iter: 100, Train-Batch Accuracy:  84.4%, Validation Acc:  85.2% *",
            "Iter:    100, Train-Batch Accuracy:  84.4%, Validation Acc:  85.2%*",
            "Accuracy on Test-Set: 98.42% (9842 / 10000)",
            "Mean: 0.0088, Stdev: 0.28635",
        ] {
            assert!(found(line).unwrap_err().ends_with(line), "{line}");
        }
    }

    #[test]
    fn a_percentage_that_is_not_that_of_its_counts_is_found() {
        assert_eq!(found("Accuracy on Test-Set: 98.3% (9835 / 10000)"), Ok(()));
        assert_eq!(found("Accuracy on Test-Set: 98.4% (9835 / 10000)"), Ok(()));
        let message = "prints 98.4% for 9826 of 10000".to_owned();
        assert_eq!(found("Accuracy on Test-Set: 98.4% (9826 / 10000)"), Err(message));
    }

    #[test]
    fn stars_stand_at_the_best_so_far() {
        let missing = LOG.replace("84.9% ", "85.3% ");
        assert_eq!(found(&missing), Err("iteration 400 has no star at 85.3%, above 85.2%".to_owned()));
        let wrong = LOG.replace("84.9% ", "84.9% *");
        assert_eq!(found(&wrong), Err("iteration 400 has a star at 84.9%, below 85.2%".to_owned()));
        let backwards = LOG.replace("   200", "   100");
        assert_eq!(found(&backwards), Err("iteration 100 is printed after 100".to_owned()));
    }

    #[test]
    fn before_the_first_star_the_best_may_be_of_an_earlier_cell() {
        let rest = "Iter:   7100, Train-Batch Accuracy:  99.0%, Validation Acc:  98.0%\n\
                    Iter:   7200, Train-Batch Accuracy:  99.0%, Validation Acc:  98.2%\n";
        assert_eq!(found(rest), Ok(()));
        let star = "Iter:   7300, Train-Batch Accuracy:  99.0%, Validation Acc:  98.1% *\n";
        assert_eq!(found(&format!("{rest}{star}")), Err("iteration 7300 has a star at 98.1%, below 98.2%".to_owned()));
    }

    #[test]
    fn a_matrix_must_add_up_to_the_accuracy_above_it() {
        let text = "Accuracy on Test-Set: 90.0% (9 / 10)\nConfusion Matrix:\n[[4 1]\n [0 5]]\n";
        assert_eq!(found(text), Ok(()));
        assert!(found(&text.replace("4 1", "3 2")).unwrap_err().contains("diagonal"));
    }
}
