//! What `04_exercises.ipynb` promises: the tutorial's eight exercises, solved, and what their numbers tell.

use regex_lite::Regex;

use super::ipynb::Notebook;
use super::problem::Problem;
use super::promises::Promises;

pub(super) const PROMISES: Promises = Promises {
    headings: &[
        "The Exercises of TensorFlow Tutorial #04",
        "Preparations",
        "1. When to stop",
        "Is that luck?",
        "Where overfitting is real",
        "2. Load instead of train",
        "3. A checkpoint every 100 iterations",
        "4. Another network",
        "5. The second layer's filters",
        "6. Why filters change so little",
        "7. The whole program",
        "8. For a friend",
        "License (MIT)",
    ],
    lines: &[
        r"rule +stops at +keeps +validation +test +iterations saved",
        r"never +- .*",
        r"rule +stops at +test accuracy +mean",
        IMPATIENT,
        MEAN,
        r"rule +stops at +keeps +validation +test +iterations saved",
        FIRST_CALL,
        SECOND_CALL,
        r"iteration 1200 .*",
        r".*damaged: its SHA-256 is .*",
        r"continuing from iteration 1100: .*",
        r".*does not fit, so nothing was restored:",
        r#"restored: "layer_conv1.weight""#,
        FINE_TUNED,
        r"layer_conv2, input channel 0: .*",
        CORRELATION,
        CHANGED_LITTLE,
        CHANGED_MORE,
        FROZEN,
        r"fn main\(\) .*",
        PROBABILITY,
        PROBABILITY,
        PROBABILITY,
        SEVENS,
    ],
    figures: 16,
    story: check_story,
};

const IMPATIENT: &str = r"patience\(500\) .* (\d+\.\d+)%";
const STRICT: &str = r"noise-aware\(.* (\d+\.\d+)%";
const UNLUCKY: &str = r"GL\(5\) .* (\d+\.\d+)%";
const MEAN: &str = r"never +10000 .* (\d+\.\d+)%";
const REPLAYED_ON_LOSS: &str = r"patience\(1000 on loss\) .* (\d+\.\d+)% +(\d+) \(\d+%\)";
const REPLAYED_TO_THE_END: &str = r"never +- .* (\d+\.\d+)% +0 \(0%\)";
const FIRST_CALL: &str = r"first call: (\d+\.\d) s, validation accuracy (\d+\.\d+)%";
const SECOND_CALL: &str = r"second call: (\d+\.\d) s, validation accuracy (\d+\.\d+)%";
const FINE_TUNED: &str = r" +400 +(\d+\.\d)% +(\d+\.\d)%";
const CORRELATION: &str = r"layer_conv1: (\d\.\d+)";
const CHANGED_LITTLE: &str = r"layer_conv1 +\d.* (\d+)%";
const CHANGED_MORE: &str = r"layer_conv2 +\d.* (\d+)%";
const FROZEN: &str = r"1 of the layers frozen: (\d+\.\d)% on the test set";
const PROBABILITY: &str = r"7 +(\d+\.\d)%.*";
const SEVENS: &str = r"(\d+) of 10000 test images are a 7 to it";

/// Percent of the test set that the tutorial's network gets right when nothing stops it.
const GOOD: f64 = 98.5;
/// Iterations that the loss saves where over-fitting is real.
const SAVED: f64 = 1_000.0;
/// Percent of the test set that training on, for those iterations, may gain.
const LITTLE: f64 = 1.0;
/// Percent with random filters in the first layer, after a short training.
const GOOD_WITH_RANDOM_FILTERS: f64 = 90.0;
/// Of 10,000 test images, how many a network takes for a 7 that was shown nothing else.
const MOST: f64 = 5_000.0;

fn check_story(notebook: &Notebook) -> Vec<Problem> {
    let printed: String = notebook.code().map(|(_, cell)| cell.stream("stdout")).collect();
    let first = |line: &str| find(&printed, line).map(|mut found| found.swap_remove(0));
    let last = |line: &str| find(&printed, line).map(|mut found| found.swap_remove(found.len() - 1));
    let no_better_than_the_end = |rule: &str, name: &str| {
        at_least(first(rule)?[0], &format!("percent where no rule stops, as {name} keeps"), first(MEAN)?[0])
    };
    let checks = [
        first(MEAN).and_then(|never| at_least(GOOD, "percent of the test set where no rule stops", never[0])),
        no_better_than_the_end(IMPATIENT, "an impatient one"),
        no_better_than_the_end(STRICT, "a strict one"),
        no_better_than_the_end(UNLUCKY, "GL"),
        last(REPLAYED_ON_LOSS).and_then(|stopped| {
            at_least(SAVED, "iterations saved by the loss on Fashion-MNIST", stopped[1])?;
            at_least(last(REPLAYED_TO_THE_END)?[0] - LITTLE, "percent kept by the loss on Fashion-MNIST", stopped[0])
        }),
        first(FIRST_CALL).and_then(|trained| {
            let loaded = first(SECOND_CALL)?;
            holds(trained[1] == loaded[1], format!("the accuracy {}% again, found {}%", trained[1], loaded[1]))?;
            holds(loaded[0] < trained[0], format!("less than {} s to load, found {} s", trained[0], loaded[0]))
        }),
        first(FINE_TUNED).and_then(|end| at_least(end[1], "percent with restored variables, as from scratch", end[0])),
        first(CHANGED_LITTLE).and_then(|first_layer| {
            at_least(first_layer[0], "percent of change in the second layer, as in the first", first(CHANGED_MORE)?[0])
        }),
        first(FROZEN).and_then(|frozen| at_least(GOOD_WITH_RANDOM_FILTERS, "percent with random filters", frozen[0])),
        find(&printed, PROBABILITY).and_then(|steps| {
            let percents: Vec<f64> = steps.into_iter().flatten().collect();
            let rises = percents.len() == 3 && percents.is_sorted_by(|a, b| a < b);
            holds(rises, format!("a probability of the 7 that rises twice, found {percents:?}"))
        }),
        first(SEVENS).and_then(|sevens| at_least(MOST, "test images taken for a 7", sevens[0])),
    ];
    checks.into_iter().filter_map(Result::err).map(Problem::of_notebook).collect()
}

/// The numbers in each line that is like this one; there is at least one.
fn find(printed: &str, line: &str) -> Result<Vec<Vec<f64>>, String> {
    let pattern = Regex::new(&format!("^(?:{line})$")).expect("promised lines are valid regular expressions");
    let numbers = |line| {
        let found = pattern.captures(line)?;
        Some(found.iter().skip(1).flatten().filter_map(|number| number.as_str().parse().ok()).collect())
    };
    let found: Vec<_> = printed.lines().filter_map(numbers).collect();
    if found.is_empty() { Err(format!("no line `{line}` is printed")) } else { Ok(found) }
}

fn at_least(least: f64, what: &str, found: f64) -> Result<(), String> {
    holds(found >= least, format!("at least {least} {what}, found {found}"))
}

fn holds(condition: bool, expected: String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(format!("expected {expected}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::problem::list;
    use crate::notebook::samples::{notebook, printing};

    const RUN: &str = "\
patience(500)                      2801   2300      98.18%  98.15%        7199 (72%)
never                                 -   8500      98.94%  98.89%            0 (0%)
patience(500)                  2801  2801   98.15%  98.13%   98.14%
noise-aware(1000, p < 0.05)    3301  4001   98.15%  98.29%   98.22%
GL(5)                          2400  2200   98.15%  97.86%   98.00%
never                          10000 10000  98.89%  98.86%   98.88%
patience(1000 on loss)             5701   4700      91.92%  91.49%        4299 (43%)
never                                 -   7500      92.20%  91.35%            0 (0%)
first call: 5.4 s, validation accuracy 95.08%
second call: 0.0 s, validation accuracy 95.08%
       400     97.1%         94.6%
layer_conv1: 0.97
layer_conv1            0.281    0.050       18%
layer_conv2            0.071    0.030       42%
1 of the layers frozen: 96.1% on the test set
7    8.5%  ███
7   11.2%  ████
7   99.0%  ████████████████████████████████████████
9000 of 10000 test images are a 7 to it
";

    #[test]
    fn good_numbers_are_silent() {
        assert_eq!(list(&check_story(&notebook(&[printing(2, RUN)]))), "");
    }

    #[test]
    fn numbers_that_tell_another_story_are_found() {
        for (old, new, found) in [
            ("98.88%", "97.97%", "expected at least 98.5 percent of the test set where no rule stops, found 97.97"),
            ("98.14%", "98.90%", "expected at least 98.9 percent where no rule stops, as an impatient one keeps"),
            (
                "98.22%",
                "98.89%",
                "expected at least 98.89 percent where no rule stops, as a strict one keeps, found 98.88",
            ),
            ("98.00%", "98.95%", "expected at least 98.95 percent where no rule stops, as GL keeps, found 98.88"),
            (
                "4299 (43%)",
                "299 (3%)",
                "expected at least 1000 iterations saved by the loss on Fashion-MNIST, found 299",
            ),
            ("91.49%", "89.12%", "percent kept by the loss on Fashion-MNIST, found 89.12"),
            ("0.0 s, validation accuracy 95.08%", "0.0 s, validation accuracy 95.10%", "the accuracy 95.08% again"),
            ("second call: 0.0", "second call: 6.0", "expected less than 5.4 s to load, found 6 s"),
            ("97.1%         94.6%", "94.5%         94.6%", "expected at least 94.6 percent with restored variables"),
            ("42%", "12%", "expected at least 18 percent of change in the second layer, as in the first, found 12"),
            ("96.1%", "11.4%", "expected at least 90 percent with random filters, found 11.4"),
            ("7   11.2%", "7    8.4%", "expected a probability of the 7 that rises twice, found [8.5, 8.4, 99.0]"),
            ("9000 of", "1028 of", "expected at least 5000 test images taken for a 7, found 1028"),
            ("never                          10000", "never                          -", "no line `never"),
        ] {
            let problems = list(&check_story(&notebook(&[printing(2, &RUN.replacen(old, new, 1))])));
            assert!(problems.contains(found), "{problems}");
        }
    }
}
