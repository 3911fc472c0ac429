//! The command on the URLs of object storage; a `file://` URL has the layout of all of them.

mod common;

use common::run_in;

#[cfg(not(feature = "object-store"))]
#[test]
fn without_the_feature_a_url_is_an_error_that_names_it() {
    for line in ["list s3://bucket/run", "show s3://bucket/run/step-000100.safetensors", "prune s3://b/r --keep last=1"]
    {
        let ran = common::run(line.split(' ')).ends_with(2);
        assert!(ran.err.contains("--features object-store"), "{}", ran.err);
    }
}

#[test]
fn nothing_is_written_to_a_url() {
    let folder = common::folder(&[(100, None)]);
    let ran = run_in(folder.path(), "export {} -o s3://bucket/model.safetensors").ends_with(2);
    assert!(ran.err.contains("cannot write to a URL"), "{}", ran.err);
    assert!(!std::path::Path::new("s3:").exists());
}

#[cfg(feature = "object-store")]
mod with_object_store {
    use std::path::Path;

    use earlystop::checkpoint::{Checkpoint, Metadata, NamedTensor, Store};
    use earlystop::early_stopping::{EarlyStopping, Patience};
    use serde_json::json;

    use super::common::{Ran, damage, run, run_in};

    /// A store at a URL, with the URL's end as a place in the file system.
    struct Remote {
        folder: tempfile::TempDir,
    }

    impl Remote {
        /// Saves three checkpoints, of which the second has the highest score.
        fn new() -> Self {
            let remote = Remote { folder: tempfile::tempdir().unwrap() };
            let mut store = Store::open(remote.url("")).unwrap();
            let mut stopping = EarlyStopping::with(Patience::new(1000)).unwrap();
            for (step, score) in [(100, 0.5), (200, 0.75), (300, 0.625)] {
                stopping.observe(step, score).unwrap();
                let weights = [step as f32; 6];
                let state = vec![NamedTensor::new("w", &weights[..])];
                let history = serde_json::to_string(&stopping).unwrap();
                let metadata = Metadata::from([("stopping".to_owned(), history)]);
                store.save(step, Some(score), &[&state], &metadata).unwrap();
            }
            remote
        }

        fn url(&self, name: &str) -> String {
            let slash = if name.is_empty() { "" } else { "/" };
            format!("file://{}/run{slash}{name}", self.folder.path().display())
        }

        /// Runs a command line; `{}` stands for the URL, and `OUT` for a path of this machine.
        fn run(&self, line: &str) -> Ran {
            let out = self.folder.path().join("out.safetensors");
            run_in(Path::new(&self.url("")), &line.replace("OUT", out.to_str().unwrap()))
        }
    }

    #[test]
    fn a_store_is_listed_from_what_it_has_recorded() {
        let remote = Remote::new();
        let listed = remote.run("list --json {}").ends_with(0).json();
        let steps: Vec<_> = listed["checkpoints"].as_array().unwrap().iter().map(|it| it["step"].clone()).collect();
        assert_eq!(steps, [100, 200, 300]);
        let second = &listed["checkpoints"][1];
        assert_eq!(second["path"], json!(remote.url("step-000200.safetensors")));
        assert_eq!((&second["best"], &second["score"], &second["bytes"]), (&json!(true), &json!(0.75), &json!(null)));
        let table = remote.run("list --verify {}").ends_with(0).out;
        assert!(table.contains("valid") && table.contains("latest"), "{table}");
    }

    #[test]
    fn a_checkpoint_is_shown_by_its_url_and_a_folder_by_its_latest() {
        let remote = Remote::new();
        for (url, step) in [("{}", 300), ("{}/step-000100.safetensors", 100)] {
            let shown = remote.run(&format!("show --json --values {url}")).ends_with(0).json();
            assert_eq!(
                (&shown["step"], &shown["tensors"][0]["values"]["mean"]),
                (&json!(step), &json!(f64::from(step)))
            );
            let path = json!(remote.url(&format!("step-000{step}.safetensors")));
            assert_eq!((&shown["path"], &shown["files"], &shown["modified"]), (&path, &json!([path]), &json!(null)));
        }
        let missing = remote.run("show {}/step-000999.safetensors").ends_with(2);
        assert!(missing.err.contains("step-000999.safetensors: no such checkpoint"), "{}", missing.err);
    }

    #[test]
    fn histories_are_shown_and_replayed() {
        let remote = Remote::new();
        let history = remote.run("history --json {}").ends_with(0).json();
        assert_eq!((&history["best"], history["evaluations"].as_array().map(Vec::len)), (&json!(200), Some(3)));
        let replay = remote.run("replay --json {} --rule patience(50)").ends_with(0).json();
        assert_eq!(replay["rules"][0]["stops_at"], json!(151));
    }

    #[test]
    fn checkpoints_are_compared_averaged_and_exported() {
        let remote = Remote::new();
        remote.run("diff --tensors-only {} {}/step-000300.safetensors").ends_with(0);
        remote.run("diff {} {}/step-000100.safetensors").ends_with(1);
        remote.run("average {}/step-000100.safetensors {}/step-000200.safetensors -o OUT").ends_with(0);
        let mean = Checkpoint::read(remote.folder.path().join("out.safetensors")).unwrap();
        assert_eq!(mean.bytes("w").unwrap()[..4], 150f32.to_le_bytes());
        remote.run("export {} -o OUT").ends_with(2);
        remote.run("export {} -o OUT --force").ends_with(0);
    }

    #[test]
    fn a_damaged_object_is_found_and_named_by_its_url() {
        let remote = Remote::new();
        remote.run("verify {}").ends_with(0);
        let data = std::fs::read_dir(remote.folder.path().join("run/data")).unwrap();
        let is_latest = |path: &Path| path.to_str().unwrap().contains("step-000300");
        damage(&data.map(|entry| entry.unwrap().path()).find(|path| is_latest(path)).unwrap());
        let verified = remote.run("verify --json {}").ends_with(1).json();
        assert_eq!(verified["damaged"][0]["path"], json!(remote.url("step-000300.safetensors")));
        assert_eq!(verified["valid"].as_array().map(Vec::len), Some(2));
        let shown = remote.run("show {}").ends_with(0);
        assert!(shown.out.contains("step-000200") && shown.err.contains("passed over: file://"), "{}", shown.err);
    }

    #[test]
    fn a_store_is_pruned_and_an_empty_one_has_nothing() {
        let remote = Remote::new();
        let steps =
            || Store::open(remote.url("")).unwrap().list().unwrap().iter().map(|it| it.step).collect::<Vec<_>>();
        let dry = remote.run("prune --dry-run {} --keep best=1").ends_with(0).out;
        assert!(dry.contains("would delete 1 checkpoint, kept 2"), "{dry}");
        assert_eq!(steps(), [100, 200, 300]);
        remote.run("prune {} --keep best=1").ends_with(0);
        assert_eq!(steps(), [200, 300]);
        let empty = format!("file://{}/nothing", remote.folder.path().display());
        for command in ["list", "show", "verify"] {
            let ran = run([command, &empty]).ends_with(1);
            assert!(ran.err.contains("no checkpoint"), "{}", ran.err);
        }
    }
}
