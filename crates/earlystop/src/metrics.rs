//! Metrics of classification: accuracy and confusion matrix.

use crate::{Error, Result};
use ndarray::{Array2, ArrayView2};
use std::borrow::Borrow;
use std::fmt;

/// Computes the accuracy, 0.0 to 1.0, and the number of correct classifications.
///
/// Without examples, the accuracy is NaN.
///
/// ```
/// let (accuracy, num_correct) = earlystop::metrics::accuracy(&[true, true, false, true]);
/// assert_eq!((accuracy, num_correct), (0.75, 3));
/// ```
pub fn accuracy(correct: impl IntoIterator<Item = impl Borrow<bool>>) -> (f64, usize) {
    let (mut num_correct, mut len) = (0, 0);
    for is_correct in correct {
        num_correct += usize::from(*is_correct.borrow());
        len += 1;
    }
    (num_correct as f64 / f64::from(len), num_correct)
}

/// Computes the confusion matrix: rows are true classes, columns are predicted classes.
///
/// Class numbers may be any integers, in arrays, slices or vectors. Stands in for
/// `sklearn.metrics.confusion_matrix`.
///
/// # Errors
///
/// If the two have different lengths, or a class number is not below `num_classes`.
///
/// ```
/// let cls_true = ndarray::array![0_u8, 1, 1, 2];
/// let cls_pred = vec![0_i64, 1, 2, 2];
/// let matrix = earlystop::metrics::confusion_matrix(&cls_true, &cls_pred, 3)?;
/// assert_eq!(matrix.to_string(), "[[1 0 0]\n [0 1 1]\n [0 0 1]]");
/// # Ok::<(), earlystop::Error>(())
/// ```
pub fn confusion_matrix<'a, T, U>(
    cls_true: impl IntoIterator<Item = &'a T>,
    cls_pred: impl IntoIterator<Item = &'a U>,
    num_classes: usize,
) -> Result<ConfusionMatrix>
where
    T: Copy + TryInto<usize> + fmt::Display + 'a,
    U: Copy + TryInto<usize> + fmt::Display + 'a,
{
    let cls_true = class_numbers("true", cls_true, num_classes)?;
    let cls_pred = class_numbers("predicted", cls_pred, num_classes)?;
    if cls_true.len() != cls_pred.len() {
        let expected = format!("{}, one for each true class", cls_true.len());
        return Err(Error::data("predicted classes", expected, cls_pred.len()));
    }
    let mut counts = Array2::zeros((num_classes, num_classes));
    for cell in cls_true.into_iter().zip(cls_pred) {
        counts[cell] += 1;
    }
    Ok(ConfusionMatrix { counts })
}

fn class_numbers<'a, T: Copy + TryInto<usize> + fmt::Display + 'a>(
    role: &'static str,
    classes: impl IntoIterator<Item = &'a T>,
    num_classes: usize,
) -> Result<Vec<usize>> {
    let checked = |(example, &class): (usize, &T)| match class.try_into() {
        Ok(class) if class < num_classes => Ok(class),
        _ => Err(Error::data(
            format!("{role} class of example {example}"),
            format!("a number below {num_classes}"),
            class,
        )),
    };
    classes.into_iter().enumerate().map(checked).collect()
}

/// A confusion matrix. Its `Display` is that of an integer matrix in numpy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    counts: Array2<u64>,
}

impl ConfusionMatrix {
    /// Returns the counts, `[num_classes, num_classes]`: rows are true classes, columns are predicted classes.
    pub fn counts(&self) -> ArrayView2<'_, u64> {
        self.counts.view()
    }

    /// Returns the number of classes.
    pub fn num_classes(&self) -> usize {
        self.counts.nrows()
    }
}

impl fmt::Display for ConfusionMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.counts.iter().max().map_or(0, |widest| widest.to_string().len());
        f.write_str("[")?;
        for (i, row) in self.counts.rows().into_iter().enumerate() {
            let row: Vec<_> = row.iter().map(|count| format!("{count:width$}")).collect();
            write!(f, "{}[{}]", if i == 0 { "" } else { "\n " }, row.join(" "))?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn accuracy_counts_what_is_correct_in_any_kind_of_list() {
        assert_eq!(accuracy(&array![true, false]), (0.5, 1));
        assert_eq!(accuracy(vec![true; 3]), (1.0, 3));
        let nothing: [bool; 0] = [];
        let (accuracy, num_correct) = accuracy(nothing);
        assert!(accuracy.is_nan() && num_correct == 0);
    }

    #[test]
    fn rows_are_true_classes_and_columns_predicted_ones() {
        let matrix = confusion_matrix(&[0_u8, 0, 1], array![1_i64, 1, 1].view(), 2).unwrap();
        assert_eq!(matrix.counts(), array![[0, 2], [0, 1]]);
        assert_eq!(matrix.num_classes(), 2);
    }

    #[test]
    fn the_text_is_aligned_as_numpy_does() {
        let counts = array![[973, 0, 7], [0, 1124, 2], [11, 3, 0]];
        let expected = "[[ 973    0    7]\n [   0 1124    2]\n [  11    3    0]]";
        assert_eq!(ConfusionMatrix { counts }.to_string(), expected);
        assert_eq!(ConfusionMatrix { counts: array![[5]] }.to_string(), "[[5]]");
        assert_eq!(ConfusionMatrix { counts: Array2::zeros((0, 0)) }.to_string(), "[]");
    }

    #[test]
    fn wrong_classes_and_lengths_are_named() {
        let error = confusion_matrix(&[0_u8, 1], &[0_i64, -1], 10).unwrap_err().to_string();
        assert_eq!(error, "predicted class of example 1: expected a number below 10, found -1");
        let error = confusion_matrix(&[0_u8, 10], &[0_u8, 1], 10).unwrap_err().to_string();
        assert_eq!(error, "true class of example 1: expected a number below 10, found 10");
        let error = confusion_matrix(&[0_u8, 1], &[0_u8], 10).unwrap_err().to_string();
        assert_eq!(error, "predicted classes: expected 2, one for each true class, found 1");
    }
}
