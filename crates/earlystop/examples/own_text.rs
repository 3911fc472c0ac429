//! A model of your own: a recurrent network that learns to write Rust, character by character, from the source of this crate.
//!
//! `cargo run --release --example own_text [FOLDER [ITERATIONS [SOURCES]]]`. SOURCES is another folder to learn from. Monitored by its loss, in nats per character, with dropout,
//! clipped gradients and a learning-rate schedule. Stopped or killed, and started again, it resumes from its last checkpoint.

use std::path::Path;
use std::{env, fs};

use earlystop::data::TensorData;
use earlystop::early_stopping::Patience;
use earlystop::optimizer::{Schedule, Trainable};
use earlystop::trainer::{BatchIter, Model, Scores};
use earlystop::{Error, Loss, Optimizer, Result, Trainer, stop};
use tch::nn::{Module, RNN};
use tch::{Device, Kind, Tensor, nn};

/// The number of characters: those of ASCII. All others are mapped to the last one.
const CHARACTERS: i64 = 128;
/// The number of characters in a sequence.
const LENGTH: i64 = 64;

struct Writer {
    variables: nn::VarStore,
    embedding: nn::Embedding,
    gru: nn::GRU,
    output: nn::Linear,
}

impl Writer {
    fn new() -> Self {
        tch::manual_seed(1); // tch draws the initial values
        let variables = nn::VarStore::new(Device::Cpu);
        let root = variables.root();
        let embedding = nn::embedding(&root / "embedding", CHARACTERS, 32, Default::default());
        let gru = nn::gru(&root / "gru", 32, 128, Default::default());
        let output = nn::linear(&root / "output", 128, CHARACTERS, Default::default());
        Self { variables, embedding, gru, output }
    }

    /// The mean cross-entropy of each next character; `text` is `[batch, LENGTH + 1]`.
    fn cross_entropy(&self, text: &Tensor, training: bool) -> Tensor {
        let (inputs, targets) = (text.narrow(1, 0, LENGTH), text.narrow(1, 1, LENGTH));
        let (hidden, _) = self.gru.seq(&self.embedding.forward(&inputs));
        let logits = self.output.forward(&hidden.dropout(0.1, training));
        logits.view([-1, CHARACTERS]).cross_entropy_for_logits(&targets.reshape([-1]))
    }

    /// Continues a text.
    fn write(&self, text: &str, count: usize) -> String {
        let _no_grad = tch::no_grad_guard();
        tch::manual_seed(1);
        let mut state = self.gru.zero_state(1);
        let mut text = text.to_owned();
        for index in 0..text.len() + count {
            state = self
                .gru
                .step(&self.embedding.forward(&Tensor::from_slice(&[i64::from(text.as_bytes()[index])])), &state);
            if index + 1 == text.len() {
                let chances = (self.output.forward(&state.value().view([-1])) / 0.5).softmax(-1, Kind::Float);
                text.push(char::from(chances.multinomial(1, true).int64_value(&[0]) as u8));
            }
        }
        text
    }
}

impl Model for Writer {
    type Batch = [Tensor; 1];

    fn variables(&self) -> &dyn Trainable {
        &self.variables
    }

    fn loss(&self, [text]: &[Tensor; 1], _iteration: u64) -> Result<Loss> {
        Ok(self.cross_entropy(text, true).into())
    }

    fn evaluate(&self, batches: BatchIter<[Tensor; 1]>) -> Result<Scores> {
        let (mut sum, mut count) = (0.0, 0.0);
        for batch in batches {
            let [text] = batch?;
            let sequences = text.size()[0] as f64;
            sum += self.cross_entropy(&text, false).double_value(&[]) * sequences;
            count += sequences;
        }
        Ok(Scores::from([("loss", sum / count)])) // monitored by default
    }
}

/// Reads a folder's source files, in the order of their names.
fn read(folder: &Path, text: &mut Vec<i64>) -> std::io::Result<()> {
    let mut paths: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(&path, text)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.extend(fs::read_to_string(&path)?.chars().map(|it| i64::from(u32::from(it)).min(CHARACTERS - 1)));
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "checkpoints/own_text".to_owned());
    let iterations = arguments.next().map_or(Ok(5000), |count| count.parse()).map_err(Error::other)?;
    stop::on_signals()?;
    let mut text = Vec::new();
    let sources = arguments.next().unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/src").to_owned());
    read(Path::new(&sources), &mut text).map_err(Error::other)?;
    // Sequences that overlap by one character; the last tenth of the text is the validation set.
    let sequences = Tensor::from_slice(&text).unfold(0, LENGTH + 1, LENGTH);
    let train = sequences.size()[0] * 9 / 10;
    let validation = TensorData::new([sequences.narrow(0, train, sequences.size()[0] - train)])?;
    let train = TensorData::new([sequences.narrow(0, 0, train)])?;

    let model = Writer::new();
    let schedule = Schedule::cosine(3e-3, 5000)?.warm_up(100);
    let optimizer = Optimizer::adam(&model.variables, schedule)?.clip_norm(1.0)?;
    let mut trainer = Trainer::for_model(model, optimizer, train, validation)
        .batch_size(32)
        .evaluate_every(50)
        .stop_when(Patience::new(500).min_delta(0.001))
        .checkpoints(folder)
        .build()?;
    trainer.resume(|event| println!("{event}"))?;
    println!("{}", trainer.optimize_to(iterations, |event| println!("{event}"))?);
    println!("{}", trainer.restore_best()?);
    println!("{}", trainer.model().write("    /// Returns the ", 300));
    Ok(())
}
