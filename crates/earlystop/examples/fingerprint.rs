//! Trains the tutorial's network and prints the SHA-256 of its complete state: the same on any number of threads.
//!
//! `cargo run --release --example fingerprint -- --iterations 100 --threads 3 [folder]`; the folder of MNIST is `data/MNIST` unless
//! it is named, and libtorch chooses the number of threads unless it is given.

use earlystop::checkpoint::Savable;
use earlystop::data::Data;
use earlystop::tch::{self, Device};
use earlystop::{Batches, Error, Mnist, Network, Optimizer, Result, network::evaluate};
use sha2::{Digest, Sha256};

struct Arguments {
    iterations: u64,
    threads: Option<i32>,
    folder: String,
}

fn main() -> Result<()> {
    let Arguments { iterations, threads, folder } = Arguments::read()?;
    earlystop::keep_freed_memory();
    if let Some(threads) = threads {
        tch::set_num_threads(threads);
    }
    let data = Mnist::load(folder, |event| println!("{event}"))?;
    let mut network = Network::builder([28, 28, 1])
        .conv2d(5, 16, "layer_conv1")
        .max_pool(2, 2)
        .conv2d(5, 36, "layer_conv2")
        .max_pool(2, 2)
        .flatten()
        .fully_connected(128, "layer_fc1")
        .softmax_classifier(10)
        .build(Device::Cpu)?;
    let mut optimizer = Optimizer::adam(&network, 1e-4)?;
    let mut batches = Batches::new(data.train.len(), 64, 0)?;
    for iteration in 1..=iterations {
        let (images, labels) = Data::batch(&data.train, &batches.indices(iteration), iteration)?;
        let loss = network.training_loss(&images, &labels, iteration)?;
        optimizer.minimize(&loss, &mut network)?;
    }
    let evaluation = evaluate(&network, &data.validation)?;
    println!("Iterations: {iterations}, threads: {}", tch::get_num_threads());
    println!("Validation: accuracy {}, loss {}", evaluation.accuracy(), evaluation.loss);
    println!("{}", fingerprint(&[&network, &optimizer])?);
    Ok(())
}

/// Computes the SHA-256 of all tensors, in the order of their names.
fn fingerprint(parts: &[&dyn Savable]) -> Result<String> {
    let mut tensors = parts.iter().flat_map(|part| part.tensors()).collect::<Vec<_>>();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hash = Sha256::new();
    for named in &tensors {
        let tensor = named.tensor()?.contiguous();
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        hash.update(format!("{} {:?} {:?}\n", named.name, tensor.kind(), tensor.size()));
        hash.update(&bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Arguments {
    fn read() -> Result<Self> {
        let mut found = Self { iterations: 100, threads: None, folder: "data/MNIST".to_owned() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--iterations" => found.iterations = number(&argument, arguments.next())?,
                "--threads" => found.threads = Some(number(&argument, arguments.next())?),
                option if option.starts_with('-') => {
                    return Err(Error::other(format!(
                        "expected --iterations N, --threads N or a folder, found {option}"
                    )));
                }
                _ => found.folder = argument,
            }
        }
        Ok(found)
    }
}

/// Reads a positive number.
fn number<T: std::str::FromStr + PartialOrd + From<u8>>(option: &str, text: Option<String>) -> Result<T> {
    let text = text.unwrap_or_default();
    let number = text.parse().ok().filter(|number| *number > T::from(0));
    number.ok_or_else(|| Error::other(format!("{option}: expected a positive number, found {text:?}")))
}
