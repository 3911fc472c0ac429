//! Who takes part.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// A way to do the job, played by a process of its own.
#[derive(Debug, Clone)]
pub(crate) struct Contestant {
    /// The name in `benchmark.json` and of its folder.
    pub(crate) id: &'static str,
    /// The name in table and figure.
    pub(crate) title: &'static str,
    /// How it does the job, in one sentence.
    pub(crate) how: &'static str,
    /// Whether it is this library.
    pub(crate) is_ours: bool,
    program: PathBuf,
    args: Vec<PathBuf>,
}

impl Contestant {
    /// The worker's command, still without its settings.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        command
    }
}

/// Who plays against this library.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rivals<'a> {
    /// Nobody.
    None,
    /// tch, which is compiled in.
    Rust,
    /// tch, and by this Python PyTorch and Keras.
    All { python: &'a Path },
}

/// The contestant that the others are measured by.
pub(crate) const YARDSTICK: &str = "pytorch-eager";
/// Those of which it is measured how they scale.
pub(crate) const SCALED: [&str; 2] = ["ours", YARDSTICK];

/// Lists the contestants in the order of the table.
pub(crate) fn contestants(rivals: Rivals) -> Result<Vec<Contestant>> {
    let ourselves = std::env::current_exe()?;
    let rust = |id, title, how| Contestant {
        id,
        title,
        how,
        is_ours: id.starts_with("ours"),
        program: ourselves.clone(),
        args: vec!["worker".into(), id.into()],
    };
    let mut contestants = vec![rust(
        "ours",
        "earlystop",
        "The notebook's loop, after `keep_freed_memory`; `evaluate`; a `Store` that keeps the last two and the best, with fsync.",
    )];
    if !matches!(rivals, Rivals::None) {
        contestants.push(rust(
            "tch",
            "tch",
            "As its example `mnist_conv`: `nn::conv2d`, `nn::linear`, `nn::Adam`; saves by `VarStore::save`, which leaves out Adam's state.",
        ));
    }
    if let Rivals::All { python } = rivals {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let script = |id, title, how, script: &str, variant: &str| Contestant {
            id,
            title,
            how,
            is_ours: false,
            program: python.to_owned(),
            args: vec![scripts.join(script), variant.into()],
        };
        contestants.extend([
            script(
                YARDSTICK,
                "PyTorch",
                "As its tutorials: `nn.Module`, `torch.optim.Adam`, eager; saves both `state_dict`s by `torch.save`.",
                "with_pytorch.py",
                "eager",
            ),
            script(
                "pytorch-channels-last",
                "PyTorch, channels-last",
                "The same, tuned: channels-last memory and the fused Adam.",
                "with_pytorch.py",
                "channels-last",
            ),
            script(
                "keras",
                "Keras",
                "On TensorFlow, as its guide to training loops: steps compiled by `tf.function`; saves by `model.save`.",
                "with_keras.py",
                "f32",
            ),
        ]);
    }
    Ok(contestants)
}
