//! Tensors in memory, one row for each example.

use sha2::{Digest, Sha256};
use tch::Tensor;

use super::Data;
use crate::error::{Error, Result, torch};
use crate::values::bytes;

/// Tensors whose first dimension counts the examples: inputs, targets, and whatever else belongs to an example. A batch has the
/// chosen rows of each of them.
///
/// ```
/// use earlystop::data::{Data, TensorData};
/// use tch::Tensor;
///
/// let inputs = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).view([4, 1]);
/// let targets = Tensor::from_slice(&[10i64, 20, 30, 40]);
/// let data = TensorData::new([inputs, targets])?;
/// let [x, y] = data.batch(&[3, 0], 1)?;
/// assert_eq!((Vec::<f32>::try_from(x.view(2))?, Vec::<i64>::try_from(y)?), (vec![4.0, 1.0], vec![40, 10]));
/// # Ok::<(), earlystop::Error>(())
/// ```
#[derive(Debug)]
pub struct TensorData<const N: usize> {
    tensors: [Tensor; N],
    len: usize,
    sha256: String,
}

impl<const N: usize> TensorData<N> {
    /// Joins tensors of equal first dimensions, and computes their checksum.
    ///
    /// # Errors
    ///
    /// If there are no tensors, one has no dimension, or their first dimensions differ.
    pub fn new(tensors: [Tensor; N]) -> Result<Self> {
        let lengths: Vec<Option<i64>> = tensors.iter().map(|tensor| tensor.size().first().copied()).collect();
        let Some(&Some(len)) = lengths.first().filter(|first| lengths.iter().all(|length| length == *first)) else {
            let shapes: Vec<_> = tensors.iter().map(Tensor::size).collect();
            return Err(Error::data(
                "tensors",
                "equal first dimensions, one row for each example",
                format!("{shapes:?}"),
            ));
        };
        let mut hash = Sha256::new();
        for tensor in &tensors {
            hash.update(format!("{:?} {:?} ", tensor.kind(), tensor.size()));
            hash.update(bytes(tensor).map_err(torch("the checksum of the data"))?);
        }
        Ok(Self { tensors, len: len as usize, sha256: format!("{:x}", hash.finalize()) })
    }
}

impl<const N: usize> Data for TensorData<N> {
    type Batch = [Tensor; N];

    fn len(&self) -> usize {
        self.len
    }

    fn batch(&self, indices: &[usize], _iteration: u64) -> Result<[Tensor; N]> {
        if let Some(index) = indices.iter().find(|&&index| index >= self.len) {
            return Err(Error::data("tensors", format!("an index within 0..{}", self.len), index));
        }
        let indices = Tensor::from_slice(&indices.iter().map(|&index| index as i64).collect::<Vec<_>>());
        let rows = |tensor: &Tensor| tensor.f_index_select(0, &indices.f_to_device(tensor.device())?);
        let rows: Vec<Tensor> = self.tensors.iter().map(rows).collect::<Result<_, _>>().map_err(torch("a batch"))?;
        rows.try_into().map_err(|_| Error::data("tensors", N, "another number"))
    }

    fn fingerprint(&self) -> Option<String> {
        Some(self.sha256.clone())
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_checksum_covers_values_kinds_and_shapes() {
        let print = |tensor: Tensor| TensorData::new([tensor]).unwrap().fingerprint().unwrap();
        let original = print(Tensor::from_slice(&[1i32, 2, 3, 4]));
        assert_eq!(original, print(Tensor::from_slice(&[0i32, 1, 2, 3, 4, 5]).narrow(0, 1, 4)));
        assert_ne!(original, print(Tensor::from_slice(&[1i32, 2, 3, 5])));
        assert_ne!(original, print(Tensor::from_slice(&[1i32, 2, 3, 4]).view([2, 2])));
        assert_ne!(original, print(Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0])));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let rows = |count: i64| Tensor::zeros([count, 2], (tch::Kind::Float, Device::Cpu));
        let error = TensorData::new([rows(3), rows(4)]).unwrap_err().to_string();
        assert_eq!(error, "tensors: expected equal first dimensions, one row for each example, found [[3, 2], [4, 2]]");
        assert!(TensorData::new([]).is_err());
        assert!(TensorData::new([Tensor::from(1.0)]).is_err());
        let error = TensorData::new([rows(3)]).unwrap().batch(&[0, 3], 1).unwrap_err().to_string();
        assert_eq!(error, "tensors: expected an index within 0..3, found 3");
    }
}
