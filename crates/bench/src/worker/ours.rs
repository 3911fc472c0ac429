//! This library, as the notebook's loop uses it, on batches as a trainer makes them.

use earlystop::checkpoint::{Keep, Store};
use earlystop::data::Data;
use earlystop::network::evaluate;
use earlystop::tch::Device;
use earlystop::{Batches, Metadata, Mnist, Network, Optimizer};

use super::Worker;
use crate::Result;
use crate::job::{SEED, Settings, Size};

/// The tutorial's network, in a size.
fn network(size: &Size) -> earlystop::Result<Network> {
    Network::builder([28, 28, 1])
        .conv2d(5, size.channels(16), "layer_conv1")
        .max_pool(2, 2)
        .conv2d(5, size.channels(36), "layer_conv2")
        .max_pool(2, 2)
        .flatten()
        .fully_connected(size.channels(128), "layer_fc1")
        .softmax_classifier(10)
        .seed(SEED)
        .build(Device::Cpu)
}

pub(super) struct Ours {
    data: Mnist,
    network: Network,
    optimizer: Optimizer,
    batches: Batches,
    iteration: u64,
    store: Store,
}

impl Ours {
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        earlystop::keep_freed_memory();
        let data = Mnist::load(&settings.data, |_| {})?;
        let network = network(&settings.size)?;
        let optimizer = Optimizer::adam(&network, 1e-4)?;
        let batches = Batches::new(data.train.len(), settings.size.batch, SEED)?;
        let store = Store::open(&settings.saves)?.keep(Keep::last(2).best(1));
        Ok(Self { data, network, optimizer, batches, iteration: 0, store })
    }
}

impl Worker for Ours {
    fn validation_batch(&self) -> usize {
        256 // what `evaluate` takes
    }

    fn train(&mut self, iterations: usize) -> Result<()> {
        for _ in 0..iterations {
            self.iteration += 1;
            let (images, labels) =
                Data::batch(&self.data.train, &self.batches.indices(self.iteration), self.iteration)?;
            let loss = self.network.training_loss(&images, &labels, self.iteration)?;
            self.optimizer.minimize(&loss, &mut self.network)?;
        }
        Ok(())
    }

    fn validate(&mut self) -> Result<f64> {
        Ok(evaluate(&self.network, &self.data.validation)?.accuracy())
    }

    fn save(&mut self) -> Result<()> {
        self.store.save(self.iteration, None, &[&self.network, &self.optimizer], &Metadata::new())?;
        Ok(())
    }
}
