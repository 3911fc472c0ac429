//! What the parts of a batch add up to.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::error::{Result, torch};
use crate::network::OneThread;

/// The sum of some parts of a batch.
pub(super) struct Sum {
    pub(super) loss: f64,
    /// The gradients of the variables, followed by the changes of the buffers; none of what the parts neither depend on nor change.
    pub(super) tensors: Vec<Option<Tensor>>,
    /// Whether libtorch's threads stay out of it.
    pub(super) on_one_thread: bool,
}

impl Sum {
    /// Adds other parts.
    pub(super) fn add(self, other: Self) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let _one_thread = self.on_one_thread.then(OneThread::begin);
        // Into new memory: libtorch may have returned one tensor for two variables.
        let add = |pair: (Option<Tensor>, Option<Tensor>)| match pair {
            (Some(sum), Some(other)) => sum.f_add(&other).map(Some),
            (sum, other) => Ok(sum.or(other)),
        };
        let sums: Result<_, tch::TchError> = self.tensors.into_iter().zip(other.tensors).map(add).collect();
        Ok(Self { loss: self.loss + other.loss, tensors: sums.map_err(torch("adding gradients"))?, ..self })
    }

    /// Says of each tensor whether there is one.
    pub(super) fn are_present(&self) -> Vec<bool> {
        self.tensors.iter().map(Option::is_some).collect()
    }

    /// Hands the tensors out to be changed, in one row on the CPU for each kind of values. Tensors that are `present` elsewhere and
    /// missing here are negative zeros, which change no sum. `like` has the sizes, kinds and devices of all tensors.
    pub(super) fn in_rows(
        mut self,
        like: &[Tensor],
        present: &[bool],
        mut change: impl FnMut(&mut Tensor) -> Result<()>,
    ) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let _one_thread = self.on_one_thread.then(OneThread::begin);
        let mut changed: Vec<Option<Tensor>> = self.tensors.iter().map(|_| None).collect();
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half] {
            let is_one = |&index: &usize| present[index] && like[index].kind() == kind;
            let members = (0..like.len()).filter(is_one).collect::<Vec<_>>();
            if members.is_empty() {
                continue;
            }
            let mut piece = |&index: &usize| match self.tensors[index].take() {
                Some(tensor) => tensor.f_to_device(Device::Cpu),
                None => Tensor::f_full([like[index].numel() as i64], -0.0, (kind, Device::Cpu)),
            };
            let pieces: Result<Vec<_>, tch::TchError> = members.iter().map(&mut piece).collect();
            let mut row = pieces.and_then(|pieces| Tensor::f_cat(&pieces, 0)).map_err(torch("joining gradients"))?;
            change(&mut row)?;
            let mut begin = 0;
            for index in members {
                let length = like[index].numel() as i64;
                let piece = row.f_narrow(0, begin, length).and_then(|piece| piece.f_to_device(like[index].device()));
                changed[index] = Some(piece.map_err(torch("separating gradients"))?);
                begin += length;
            }
        }
        Ok(Self { tensors: changed, ..self })
    }
}

/// Adds up parts as a binary tree: the first half of them, the second half, and then both sums.
pub(super) fn add_up<T>(
    parts: Range<usize>,
    of: &mut impl FnMut(usize) -> Result<T>,
    add: &impl Fn(T, T) -> Result<T>,
) -> Result<T> {
    if parts.len() == 1 {
        return of(parts.start);
    }
    let middle = parts.start + parts.len().div_ceil(2);
    let first = add_up(parts.start..middle, of, add)?;
    let second = add_up(middle..parts.end, of, add)?;
    add(first, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree as text: `((0+1)+2)`.
    fn tree(parts: Range<usize>) -> String {
        add_up(parts, &mut |part| Ok(part.to_string()), &|a, b| Ok(format!("({a}+{b})"))).unwrap()
    }

    #[test]
    fn parts_are_added_as_a_tree_of_halves() {
        assert_eq!(tree(0..1), "0");
        assert_eq!(tree(0..2), "(0+1)");
        assert_eq!(tree(0..3), "((0+1)+2)");
        assert_eq!(tree(0..6), "(((0+1)+2)+((3+4)+5))");
    }

    #[test]
    fn the_share_of_each_process_is_a_branch_of_the_tree() {
        for parts in [4, 8, 12, 20, 28] {
            for processes in [1, 2, 4] {
                let share = |process: usize| tree(process * parts / processes..(process + 1) * parts / processes);
                let shares = (0..processes).map(share).collect::<Vec<_>>();
                let together =
                    add_up(0..processes, &mut |process| Ok(shares[process].clone()), &|a, b| Ok(format!("({a}+{b})")));
                assert_eq!(together.unwrap(), tree(0..parts), "{parts} parts, {processes} processes");
            }
        }
    }
}
