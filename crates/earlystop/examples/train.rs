//! The tutorial as a script: train with early stopping, restore the best variables, judge them on the test set.
//!
//! Stopped (by Ctrl-C, for example) or killed, and started again, it resumes from its last checkpoint.

use earlystop::{Mnist, Network, Optimizer, Result, Trainer, network::evaluate, stop, tch::Device};

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
    let mut trainer = trainer.patience(1000).checkpoints("checkpoints/train").build()?;
    trainer.resume(|event| println!("{event}"))?;
    println!("{}", trainer.optimize_to(10_000, |event| println!("{event}"))?);
    println!("{}", trainer.restore_best()?);
    println!("Test accuracy: {:.2}%", 100.0 * evaluate(trainer.network(), &data.test)?.accuracy());
    Ok(())
}
