//! Adding tensors of all processes, and copying them.

use tch::{Device, Tensor};

use super::Processes;
use crate::error::{Result, torch};
use crate::values::{raw_bytes, raw_bytes_mut};

/// How many bytes are sent at a time.
const CHUNK: usize = 1 << 22;

impl Processes {
    /// Adds the rows of all processes, as a binary tree adds them whose leaves are the processes: ((0 + 1) + (2 + 3)) + ….
    /// Every process receives the sum. The number of processes is a power of two.
    ///
    /// Each process sends and receives less than twice the row: first, partners exchange halves of what they have and add them, so that
    /// in the end each has a piece of the sum; then the pieces go back the same way
    /// ([Rabenseifner 2004](https://doi.org/10.1007/978-3-540-24685-5_1)). Each value is added up by the same tree, and both partners
    /// would compute the same bits.
    pub(crate) fn add_up(&self, row: &mut Tensor) -> Result<()> {
        debug_assert!(self.count().is_power_of_two() && row.device() == Device::Cpu && row.is_contiguous());
        let _no_grad = tch::no_grad_guard();
        let (mut begin, mut end) = (0, row.numel());
        let mut before = Vec::new();
        let mut distance = 1;
        while distance < self.count() {
            let middle = begin + (end - begin) / 2;
            let is_lower = self.rank() & distance == 0;
            let (keep, give) =
                if is_lower { ([begin, middle], [middle, end]) } else { ([middle, end], [begin, middle]) };
            self.exchange(row, distance, give, keep, |mut mine, mut theirs| {
                // The lower process's comes first: which of two NaNs is the sum depends on it.
                if is_lower {
                    mine.f_add_(&theirs).map(drop)
                } else {
                    theirs.f_add_(&mine).and_then(|sum| mine.f_copy_(&sum)).map(drop)
                }
            })?;
            before.push((distance, [begin, end], give));
            [begin, end] = keep;
            distance *= 2;
        }
        for (distance, whole, other) in before.into_iter().rev() {
            self.exchange(row, distance, [begin, end], other, |mut mine, theirs| mine.f_copy_(&theirs).map(drop))?;
            [begin, end] = whole;
        }
        Ok(())
    }

    /// Exchanges values of a row with the partner at a distance; `take` receives this process's values and the partner's.
    fn exchange(
        &self,
        row: &mut Tensor,
        distance: usize,
        give: [usize; 2],
        receive: [usize; 2],
        take: impl Fn(Tensor, Tensor) -> Result<(), tch::TchError>,
    ) -> Result<()> {
        let Some(group) = self.group.as_deref() else { return Ok(()) };
        let chunk = CHUNK / row.kind().elt_size_in_bytes();
        let lengths = [give, receive].map(|[begin, end]| end - begin);
        let size = lengths[1].min(chunk) as i64;
        let received = Tensor::f_zeros([size], (row.kind(), Device::Cpu)).map_err(torch("adding gradients"))?;
        for offset in (0..lengths[0].max(lengths[1])).step_by(chunk) {
            let part = |[begin, end]: [usize; 2]| {
                let begin = (begin + offset).min(end);
                row.f_narrow(0, begin as i64, chunk.min(end - begin) as i64).map_err(torch("adding gradients"))
            };
            let (mine, keep) = (part(give)?, part(receive)?);
            let mut theirs = received.f_narrow(0, 0, keep.numel() as i64).map_err(torch("adding gradients"))?;
            {
                // SAFETY: `mine` is a part of the caller's row, which nobody else uses, and `theirs` of a tensor of this function. Both
                // slices are gone before `take` writes.
                let (mine, theirs) = unsafe { (raw_bytes(&mine), raw_bytes_mut(&mut theirs)) };
                group.link().exchange(group.rank ^ distance, mine, theirs);
                group.count_traffic(mine.len());
            }
            take(keep, theirs).map_err(torch("adding gradients"))?;
        }
        Ok(())
    }

    /// Copies the values of a tensor of process 0 to the others'.
    pub(crate) fn copy_from_first(&self, tensor: &Tensor) -> Result<()> {
        let Some(group) = self.group.as_deref().filter(|group| group.count > 1) else { return Ok(()) };
        let copying = || torch("copying the variables of process 0");
        let _no_grad = tch::no_grad_guard();
        let mut live = tensor.f_detach().map_err(copying())?;
        let kind = (live.kind(), Device::Cpu);
        let mut copy = Tensor::f_zeros([live.numel() as i64], kind).map_err(copying())?;
        live.f_reshape([-1]).and_then(|row| copy.f_copy_(&row)).map_err(copying())?;
        {
            // SAFETY: the copy has memory of its own.
            let bytes = unsafe { raw_bytes_mut(&mut copy) };
            for part in bytes.chunks_mut(CHUNK) {
                group.link().broadcast(part);
                group.count_traffic(part.len());
            }
        }
        if self.is_first() {
            return Ok(());
        }
        copy.f_view(&live.size()[..]).and_then(|copy| live.f_copy_(&copy)).map(drop).map_err(copying())
    }
}
