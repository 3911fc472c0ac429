//! What `04_save_restore.ipynb` promises: the outline, the lines and the numbers of TensorFlow Tutorial #04.

use super::ipynb::Notebook;
use super::printed::{Printed, TestAccuracy, WeightStatistics};
use super::problem::Problem;
use super::promises::Promises;

pub(super) const PROMISES: Promises = Promises {
    headings: &[
        "TensorFlow Tutorial #04 in Rust: Save & Restore",
        "Introduction",
        "Flowchart",
        "Imports",
        "Load Data",
        "Data Dimensions",
        "Helper-function for plotting images",
        "Plot a few images to see if data is correct",
        "TensorFlow Graph",
        "Placeholder variables",
        "Neural Network",
        "Getting the Weights",
        "Optimization Method",
        "Performance Measures",
        "Saver",
        "TensorFlow Run",
        "Create TensorFlow session",
        "Initialize variables",
        "Helper-function to perform optimization iterations",
        "Helper-function to plot example errors",
        "Helper-function to plot confusion matrix",
        "Helper-functions for calculating classifications",
        "Helper-functions for calculating the classification accuracy",
        "Helper-function for showing the performance",
        "Helper-function for plotting convolutional weights",
        "Performance before any optimization",
        "Perform 10,000 optimization iterations",
        "Initialize Variables Again",
        "Restore Best Variables",
        "Close TensorFlow Session",
        "Conclusion",
        "Exercises",
        "License (MIT)",
    ],
    lines: &[
        r"Extracting .*train-images-idx3-ubyte\.gz",
        r"Extracting .*train-labels-idx1-ubyte\.gz",
        r"Extracting .*t10k-images-idx3-ubyte\.gz",
        r"Extracting .*t10k-labels-idx1-ubyte\.gz",
        r"Size of:",
        r"- Training-set:\t\t55000",
        r"- Test-set:\t\t10000",
        r"- Validation-set:\t5000",
        ACCURACY,
        WEIGHTS,
        r"Iter:    100, .*",
        STOPPED,
        r"Time usage: \d:\d\d:\d\d",
        ACCURACY,
        r"Example errors:",
        r"Confusion Matrix:",
        WEIGHTS,
        ACCURACY,
        WEIGHTS,
        ACCURACY,
        r"Example errors:",
        r"Confusion Matrix:",
        WEIGHTS,
    ],
    figures: 13,
    story: check_story,
};

const ACCURACY: &str = r"Accuracy on Test-Set: .*";
const WEIGHTS: &str = r"Mean: .*";
const STOPPED: &str = "No improvement found in a while, stopping optimization.";

/// Percent of the test set that the tutorial's network gets right.
const GOOD: f64 = 98.3;
/// Percent that a network of random weights may get right by chance.
const CHANCE: std::ops::RangeInclusive<f64> = 5.0..=20.0;
/// Standard deviation of random filters: √(2 / 25) for the 5x5 inputs of a ReLU, within the chance of 400 draws.
const RANDOM_STDEV: std::ops::RangeInclusive<f64> = 0.263..=0.303;
/// Iterations without improvement after which the training stops.
const PATIENCE: u64 = 1000;
/// Iterations between two lines of progress.
const INTERVAL: u64 = 100;
/// Iterations asked for, which the training must not reach.
const ASKED: u64 = 10_000;

fn check_story(notebook: &Notebook) -> Vec<Problem> {
    let printed: Vec<Printed> = notebook.code().map(|(_, cell)| Printed::of(cell)).collect();
    let accuracies: Vec<&TestAccuracy> = printed.iter().flat_map(|cell| &cell.accuracies).collect();
    let weights: Vec<&WeightStatistics> = printed.iter().flat_map(|cell| &cell.weights).collect();
    let mut problems = check_accuracies(&accuracies);
    problems.extend(check_weights(&weights));
    problems.extend(check_early_stop(notebook).err());
    problems.into_iter().map(Problem::of_notebook).collect()
}

/// The network guesses, is trained, guesses again after a new initialization, and is restored.
fn check_accuracies(accuracies: &[&TestAccuracy]) -> Vec<String> {
    let [untrained, trained, initialized_again, restored] = accuracies else {
        return vec![format!("expected 4 test accuracies, found {}", accuracies.len())];
    };
    let mut problems = Vec::new();
    for (when, accuracy) in [("before training", untrained), ("after initializing again", initialized_again)] {
        if !CHANCE.contains(&accuracy.percent) {
            problems.push(format!("{when} the test accuracy is {}%, which is no chance level", accuracy.percent));
        }
    }
    for (when, accuracy) in [("after training", trained), ("after restoring", restored)] {
        if accuracy.percent < GOOD {
            problems.push(format!("{when} the test accuracy is {}%, expected at least {GOOD}%", accuracy.percent));
        }
    }
    problems
}

fn check_weights(weights: &[&WeightStatistics]) -> Vec<String> {
    let [random, trained, random_again, restored] = weights else {
        return vec![format!("expected the filters' mean and stdev 4 times, found them {} times", weights.len())];
    };
    let mut problems = Vec::new();
    for filters in [random, random_again] {
        if !RANDOM_STDEV.contains(&filters.stdev) {
            let stdev = filters.stdev;
            problems.push(format!("random filters have a stdev of {stdev:.5}, expected {RANDOM_STDEV:?}"));
        }
    }
    for (one, other, what) in [
        (random, random_again, "initializing again draws other filters"),
        (random, trained, "training changes the filters"),
        (random_again, restored, "restoring brings other filters back"),
    ] {
        if one == other {
            problems.push(format!("{what}, but mean {:.5} and stdev {:.5} are the same", one.mean, one.stdev));
        }
    }
    problems
}

/// The training ends early, when the patience since the last star is used up.
fn check_early_stop(notebook: &Notebook) -> Result<(), String> {
    let stopped = notebook.code().map(|(_, cell)| cell).find(|cell| cell.stream("stdout").contains(STOPPED));
    let progress = stopped.map(Printed::of).ok_or("the training did not stop early")?.progress;
    let last = progress.last().ok_or("the cell that stops early prints no progress")?.iteration;
    let best = progress.iter().rev().find(|line| line.improved).ok_or("the training never improved")?.iteration;
    if last >= ASKED {
        return Err(format!("the training stopped after {last} iterations, expected fewer than {ASKED}"));
    }
    // The line after the last interval may be that of the stop itself.
    if (PATIENCE..=PATIENCE + INTERVAL).contains(&(last - best)) {
        return Ok(());
    }
    Err(format!("the last star is at iteration {best}, so the training cannot stop after {last}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::problem::list;
    use crate::notebook::samples::{notebook, printing};

    /// What the original printed, shortened.
    const RUN: &str = "\
Accuracy on Test-Set: 8.5% (849 / 10000)
Mean: 0.00880, Stdev: 0.28635
Iter:   4800, Train-Batch Accuracy: 100.0%, Validation Acc:  98.8% *
Iter:   5800, Train-Batch Accuracy: 100.0%, Validation Acc:  98.5%
No improvement found in a while, stopping optimization.
Time usage: 0:00:28
Accuracy on Test-Set: 98.4% (9842 / 10000)
Mean: 0.02895, Stdev: 0.29949
Accuracy on Test-Set: 13.4% (1341 / 10000)
Mean: -0.01086, Stdev: 0.28023
Accuracy on Test-Set: 98.3% (9826 / 10000)
Mean: 0.02792, Stdev: 0.29822
";

    #[test]
    fn the_originals_numbers_are_good_enough() {
        assert_eq!(list(&check_story(&notebook(&[printing(2, RUN)]))), "");
    }

    #[test]
    fn numbers_that_tell_another_story_are_found() {
        for (old, new, found) in [
            ("98.4% (9842", "98.2% (9822", "after training the test accuracy is 98.2%"),
            ("98.3% (9826", "97.9% (9792", "after restoring the test accuracy is 97.9%"),
            ("8.5% (849", "98.5% (9849", "before training the test accuracy is 98.5%, which is no chance level"),
            ("13.4% (1341", "98.3% (9826", "after initializing again the test accuracy is 98.3%"),
            ("0.28635", "0.09950", "random filters have a stdev of 0.09950"),
            (
                "Mean: -0.01086, Stdev: 0.28023",
                "Mean: 0.00880, Stdev: 0.28635",
                "initializing again draws other filters",
            ),
            ("Mean: 0.02895, Stdev: 0.29949", "Mean: 0.00880, Stdev: 0.28635", "training changes the filters"),
            ("Mean: 0.02792, Stdev: 0.29822", "Mean: -0.01086, Stdev: 0.28023", "restoring brings other filters back"),
            ("Mean: 0.02792, Stdev: 0.29822\n", "", "found them 3 times"),
            ("Iter:   5800", "Iter:   5700", "the last star is at iteration 4800"),
            ("Iter:   5800", "Iter:   6000", "cannot stop after 6000"),
            ("98.8% *", "98.8%", "the training never improved"),
            ("No improvement found in a while", "The end", "the training did not stop early"),
        ] {
            let problems = list(&check_story(&notebook(&[printing(2, &RUN.replacen(old, new, 1))])));
            assert!(problems.contains(found), "{problems}");
        }
        let late = RUN.replace("   4800", "   9000").replace("   5800", "  10000");
        assert!(list(&check_story(&notebook(&[printing(2, &late)]))).contains("fewer than 10000"));
    }
}
