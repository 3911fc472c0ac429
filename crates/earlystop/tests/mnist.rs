//! The genuine data, as the tutorial sees them.
#![cfg(feature = "torch")]

use std::path::Path;

use earlystop::mnist::Mnist;

fn genuine() -> Mnist {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/MNIST");
    assert!(
        dir.join("t10k-labels-idx1-ubyte.gz").is_file(),
        "{} has no data: run `cargo run --example mnist` in the workspace's folder first",
        dir.display()
    );
    Mnist::load(dir, |_| {}).unwrap()
}

#[test]
fn mnist_is_split_and_labelled_as_the_tutorial_shows() {
    let data = genuine();
    assert_eq!([data.train.len(), data.validation.len(), data.test.len()], [55_000, 5_000, 10_000]);
    assert_eq!(data.test.labels().to_vec()[..9], [7, 2, 1, 0, 4, 1, 4, 9, 5]);
    assert_eq!(data.validation.labels().to_vec()[..9], [5, 0, 4, 1, 9, 2, 1, 3, 1]);
    assert_eq!(data.train.one_hot(..).unwrap().dim(), (55_000, 10));

    let mut count = [0; 10];
    data.test.labels().iter().for_each(|&label| count[usize::from(label)] += 1);
    assert_eq!(count, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
}

#[test]
fn mnist_has_its_well_known_mean_and_deviation() {
    let data = genuine();
    let mut histogram = [0u64; 256];
    data.train.images().iter().chain(data.validation.images()).for_each(|&pixel| histogram[usize::from(pixel)] += 1);
    let mean_of = |of: &dyn Fn(f64) -> f64| {
        let sum: f64 = (0..256).map(|pixel| of(pixel as f64 / 255.0) * histogram[pixel] as f64).sum();
        sum / (60_000 * 28 * 28) as f64
    };
    let mean = mean_of(&|unit| unit);
    let deviation = mean_of(&|unit| (unit - mean).powi(2)).sqrt();
    assert!((mean - 0.1307).abs() < 5e-5, "{mean}");
    assert!((deviation - 0.3081).abs() < 5e-5, "{deviation}");
}
