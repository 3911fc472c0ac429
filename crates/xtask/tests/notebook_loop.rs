//! The tutorial's notebook and the crate's trainer train to the same bits: the notebook's own cells, with the real kernel. Slow,
//! so only with `EARLYSTOP_LONG_TESTS=1` (`cargo xtask test --long`, and in CI).

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// Trains by the notebook's loop, then a twin of its network by the trainer.
const TRAIN_BOTH: &str = r#"
let mut twin = builder.clone()
    .conv2d(5, 16, "layer_conv1").max_pool(2, 2)
    .conv2d(5, 36, "layer_conv2").max_pool(2, 2)
    .flatten().fully_connected(128, "layer_fc1").softmax_classifier(NUM_CLASSES)
    .build(Device::Cpu)?;
init_variables(&mut twin)?;
let twin_optimizer = Adam::new(&twin, 1e-4)?;
let trainer = earlystop::Trainer::builder(
    twin, twin_optimizer, &data.train, &data.validation,
);
let mut trainer = trainer.patience(REQUIRE_IMPROVEMENT).build()?;
optimize(
    250, &mut network, &mut optimizer, &data, &mut progress,
    &saver, &save_path, &latest_path, validation_accuracy,
)?;
trainer.optimize(250, |event| println!("{event}"))?;
let twin = trainer.network().variables();
for name in network.variables().names() {
    assert_eq!(network.variables().values(name)?, twin.values(name)?, "{name}");
}
println!("the same bits");
"#;

#[test]
fn the_notebooks_loop_is_the_trainers_bit_for_bit() {
    if std::env::var_os("EARLYSTOP_LONG_TESTS").is_none() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join("notebooks/04_save_restore.ipynb")).unwrap();
    let mut notebook: Value = serde_json::from_str(&text).unwrap();
    let cells = notebook["cells"].as_array_mut().unwrap();
    let is_training = |cell: &Value| cell["source"].to_string().contains("## Performance before any optimization");
    cells.truncate(cells.iter().position(is_training).expect("the notebook has that heading"));
    let cell = json!({"cell_type": "code", "id": "both", "metadata": {}, "execution_count": null, "outputs": []});
    cells.push(cell);
    // Its prose and long cell are not what is looked at, so it lies where no convention is checked but those of any run.
    cells.last_mut().unwrap()["source"] = TRAIN_BOTH.trim().into();

    // A folder beside crates/ and data/, as the notebook's own is.
    let path = root.join("target/notebook_loop.ipynb");
    fs::write(&path, notebook.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).arg("notebook").arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let executed = fs::read_to_string(root.join("target/notebooks/notebook_loop.ipynb")).unwrap();
    let executed: Value = serde_json::from_str(&executed).unwrap();
    let outputs = executed["cells"].as_array().unwrap().last().unwrap()["outputs"].as_array().unwrap();
    let text = outputs.iter().flat_map(|output| output["text"].as_array().into_iter().flatten());
    let printed: String = text.filter_map(Value::as_str).collect();
    let lines: Vec<_> = printed.lines().filter(|line| line.starts_with("Iter:")).collect();
    assert_eq!(lines.len(), 6, "{printed}");
    assert_eq!(lines[..3], lines[3..]);
    assert!(printed.contains("the same bits"), "{printed}");
}
