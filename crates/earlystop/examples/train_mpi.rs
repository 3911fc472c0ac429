//! The tutorial on several processes: `mpirun -n 4 target/release/examples/train_mpi`. Its results are the same on any number of them that
//! divides the 4 parts of a batch.
//!
//! `train.rs` with one more line, but that only one process prints. Stopped by a signal to any process, or killed, and started again, also with
//! another number of processes, it resumes from its last checkpoint.

use earlystop::{Mnist, Network, Optimizer, Processes, Result, Trainer, network::evaluate, stop, tch::Device};

fn main() -> Result<()> {
    earlystop::keep_freed_memory();
    stop::on_signals()?;
    let data = Mnist::load("data/MNIST", |event| println!("{event}"))?;
    let network = Network::builder([28, 28, 1])
        .conv2d(5, 16, "layer_conv1")
        .max_pool(2, 2)
        .conv2d(5, 36, "layer_conv2")
        .max_pool(2, 2)
        .flatten()
        .fully_connected(128, "layer_fc1")
        .softmax_classifier(10)
        .build(Device::Cpu)?;
    let optimizer = Optimizer::adam(&network, 1e-4)?;
    let trainer = Trainer::builder(network, optimizer, &data.train, &data.validation);
    let trainer = trainer.accumulate(4).processes(Processes::from_mpi()?);
    let mut trainer = trainer.patience(1000).checkpoints("checkpoints/train_mpi").build()?;
    trainer.resume(|event| println!("{event}"))?;
    let report = trainer.optimize_to(10_000, |event| println!("{event}"))?;
    let restored = trainer.restore_best()?;
    if trainer.processes().is_first() {
        println!("{report}\n{restored}");
        println!("Test accuracy: {:.2}%", 100.0 * evaluate(trainer.network(), &data.test)?.accuracy());
    }
    Ok(())
}
