//! Paths and file systems as people have them: links, permissions, long names, a changing working directory.
#![cfg(feature = "torch")]
#![cfg(unix)]

#[path = "common/process.rs"]
mod process;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use earlystop::checkpoint::{Keep, Metadata, NamedTensor, Saver, Store};
use tch::{Device, Kind, Tensor};

use process::passes;

fn state(value: f64) -> Vec<NamedTensor<'static>> {
    vec![NamedTensor::new("w", Tensor::full([8], value, (Kind::Float, Device::Cpu)))]
}

fn save(path: &Path, value: f64) {
    assert_eq!(Saver::new().save(path, &[&state(value)], &Metadata::new()).unwrap(), []);
}

fn value_in(path: &Path) -> f64 {
    let live = state(-1.0);
    Saver::new().restore(path, &[&live]).unwrap();
    live[0].tensor().unwrap().double_value(&[0])
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_link_stays_and_its_file_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (near, far) = (dir.path().join("near"), dir.path().join("far"));
    fs::create_dir(&near).unwrap();
    fs::create_dir(&far).unwrap();
    save(&far.join("real"), 1.0);
    symlink(&near, dir.path().join("near_link")).unwrap();
    let links = [
        ("absolute", far.join("real")),
        ("relative", "../far/real".into()),
        ("chain", "relative".into()),
        ("to_nothing", "../far/new".into()),
    ];
    for (value, (name, target)) in (2..).zip(&links) {
        symlink(target, near.join(name)).unwrap();
        let path = dir.path().join("near_link").join(name);
        save(&path, f64::from(value));
        assert_eq!(value_in(&path), f64::from(value), "{name}");
        assert_eq!(fs::read_link(near.join(name)).unwrap(), *target);
        let real = far.join(if *name == "to_nothing" { "new" } else { "real" });
        assert!(fs::symlink_metadata(&real).unwrap().is_file(), "{name}");
        assert_eq!(value_in(&real), f64::from(value), "{name}");
    }
    assert_eq!(names_in(&near), ["absolute", "chain", "relative", "to_nothing"]);
    assert_eq!(names_in(&far), ["new", "real"]);

    symlink("loop_b", near.join("loop_a")).unwrap();
    symlink("loop_a", near.join("loop_b")).unwrap();
    let path = near.join("loop_a");
    let error = Saver::new().save(&path, &[&state(1.0)], &Metadata::new()).unwrap_err().to_string();
    assert_eq!(error, format!("{}: cannot follow its symbolic links: they form a loop", path.display()));
}

#[test]
fn a_store_works_in_a_linked_folder_and_with_linked_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let (real, link) = (dir.path().join("real"), dir.path().join("link"));
    fs::create_dir(&real).unwrap();
    symlink("real", &link).unwrap();
    let mut store = Store::open(&link).unwrap().keep(Keep::last(1));
    let path = store.save(1, None, &[&state(1.0)], &Metadata::new()).unwrap().path;
    assert_eq!(path, link.join("step-000001.safetensors"));
    // Moved to a larger disk by hand: only the link is deleted, as it is what the folder has.
    fs::rename(&path, dir.path().join("moved")).unwrap();
    symlink(dir.path().join("moved"), &path).unwrap();
    store.save(2, None, &[&state(2.0)], &Metadata::new()).unwrap();
    assert_eq!(names_in(&real), [".lock", "step-000002.safetensors"]);
    assert_eq!(value_in(&dir.path().join("moved")), 1.0);
}

#[test]
fn a_replaced_file_passes_its_mode_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    save(&path, 1.0);
    let new = dir.path().join("plain");
    fs::write(&new, "").unwrap();
    assert_eq!(mode(&path), mode(&new), "a new file has the mode that every new file gets");
    for wanted in [0o600, 0o640, 0o664, 0o444, 0o4711, 0o000] {
        fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
        save(&path, 2.0);
        assert_eq!(mode(&path), wanted, "{wanted:o}");
    }
}

#[test]
fn a_file_keeps_its_owner_if_the_system_permits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    save(&path, 1.0);
    if std::os::unix::fs::chown(&path, Some(65534), Some(65534)).is_err() {
        eprintln!("SKIPPED: only root may give a file away");
        return;
    }
    save(&path, 2.0);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (65534, 65534));
}

#[test]
fn a_name_may_be_as_long_as_the_file_system_takes() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a".repeat(255), "ö".repeat(127), "名".repeat(85), "x".repeat(81), "x".repeat(80)] {
        let path = dir.path().join(&name);
        let others = dir.path().join(format!("{}b", &name[..name.len() - name.chars().last().unwrap().len_utf8()]));
        save(&path, 1.0);
        // Names with a common start do not share temporary files: a save to one leaves those of the other alone.
        save(&others, 2.0);
        assert_eq!((value_in(&path), value_in(&others)), (1.0, 2.0));
        assert!(names_in(dir.path()).iter().all(|name| !name.ends_with(".tmp")));
    }
    let path = dir.path().join("a".repeat(256));
    let error = Saver::new().save(&path, &[&state(1.0)], &Metadata::new()).unwrap_err().to_string();
    assert!(error.contains("File name too long"), "{error}");
    assert!(names_in(dir.path()).iter().all(|name| !name.ends_with(".tmp")));
}

/// Tells the test program, started again as a child, which folder to work in.
const FOLDER: &str = "CHECKPOINT_PLACES_FOLDER";

/// The tests of one program share the working directory, so this one runs in a child.
#[test]
fn a_store_keeps_its_folder_when_the_working_directory_changes() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_store_keeps_its_folder_when_the_working_directory_changes"]);
        passes(child.env(FOLDER, dir.path().canonicalize().unwrap()).current_dir(dir.path()));
        assert_eq!(names_in(&dir.path().join("run")), [".lock", "after-step-000003", "step-000003.safetensors"]);
        assert_eq!(names_in(&dir.path().join("elsewhere")), [""; 0]);
        return;
    };
    let mut store = Store::open("run").unwrap().keep(Keep::last(2));
    let save = |store: &mut Store, step: u64| store.save(step, None, &[&state(step as f64)], &Metadata::new());
    let first = save(&mut store, 1).unwrap();
    save(&mut store, 2).unwrap();
    assert_eq!((store.folder(), &*first.path), (Path::new("run"), Path::new("run/step-000001.safetensors")));

    fs::create_dir("elsewhere").unwrap();
    std::env::set_current_dir("elsewhere").unwrap();
    let third = save(&mut store, 3).unwrap();
    save(&mut store, 4).unwrap();
    assert_eq!(third.path, folder.join("run/step-000003.safetensors"));
    assert_eq!(store.folder(), folder.join("run"));
    assert_eq!(store.list().unwrap().len(), 2);
    for saved in store.list().unwrap() {
        assert_eq!(value_in(&saved.path), saved.step as f64);
    }
    assert_eq!(store.archive_after(&third).unwrap(), Some(folder.join("run/after-step-000003")));
    std::env::set_current_dir("..").unwrap();
    assert_eq!(store.latest().unwrap().unwrap().path, Path::new("run/step-000003.safetensors"));
}

/// Saves into a store and to a path on some file system, with links and takeovers where it has them.
fn exercise(folder: &Path) {
    let mut store = Store::open(folder.join("run")).unwrap().keep(Keep::last(2).best(1));
    for step in 1..=4 {
        store.save(step, Some(-(step as f64)), &[&state(step as f64)], &Metadata::new()).unwrap();
    }
    let mut newer = Store::open(folder.join("run")).unwrap();
    newer.save(5, None, &[&state(5.0)], &Metadata::new()).unwrap();
    store.save(6, None, &[&state(6.0)], &Metadata::new()).unwrap_err();
    drop(store);
    newer.save(6, None, &[&state(6.0)], &Metadata::new()).unwrap();
    let steps: Vec<u64> = newer.list().unwrap().iter().map(|saved| saved.step).collect();
    assert_eq!(steps, [1, 3, 4, 5, 6]);
    assert_eq!(newer.warnings(), []);
    let path = folder.join("single");
    save(&path, 1.0);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    save(&path, 2.0);
    assert_eq!((value_in(&path), mode(&path)), (2.0, 0o640));
}

#[test]
fn other_file_systems_do_as_well() {
    exercise(tempfile::tempdir().unwrap().path());
    let shared_memory = Path::new("/dev/shm");
    if shared_memory.is_dir() {
        exercise(tempfile::tempdir_in(shared_memory).unwrap().path());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_folder_below_an_overlay_is_saved_into() {
    /// Unmounted at the end of the test.
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }
    // An overlay cannot lie on another one, which containers often have as their root: a disk in memory is below it.
    let dir = tempfile::tempdir().unwrap();
    let mount = |options: &[&str], place: &Path| {
        let output = Command::new("mount").args(options).arg(place).output();
        output.is_ok_and(|output| output.status.success()).then(|| Mounted(place.to_owned()))
    };
    let Some(_memory) = mount(&["-t", "tmpfs", "tmpfs"], dir.path()) else {
        eprintln!("SKIPPED: an overlay needs the right to mount one");
        return;
    };
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| dir.path().join(name));
    for folder in [&lower, &upper, &work, &merged] {
        fs::create_dir(folder).unwrap();
    }
    // What the lower layer has is copied up when it is locked or replaced.
    exercise(&lower);
    let layers = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let Some(_overlay) = mount(&["-t", "overlay", "overlay", "-o", &layers], &merged) else {
        eprintln!("SKIPPED: no overlay file system");
        return;
    };
    let mut store = Store::open(merged.join("run")).unwrap().keep(Keep::last(1));
    store.save(7, None, &[&state(7.0)], &Metadata::new()).unwrap();
    let mut newer = Store::open(merged.join("run")).unwrap();
    newer.save(8, None, &[&state(8.0)], &Metadata::new()).unwrap();
    store.save(9, None, &[&state(9.0)], &Metadata::new()).unwrap_err();
    drop(store);
    newer.save(9, None, &[&state(9.0)], &Metadata::new()).unwrap();
    assert_eq!(newer.latest_valid().unwrap().saved.unwrap().step, 9);
    assert_eq!(newer.warnings(), []);
    save(&merged.join("single"), 3.0);
    assert_eq!((value_in(&merged.join("single")), mode(&merged.join("single"))), (3.0, 0o640));
    exercise(&merged.join("new"));
}
