//! Uploads checkpoints and the history, and downloads copies of them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::super::super::checksum::hex;
use super::super::super::layout::is_index;
use super::super::super::lock::random_token;
use super::super::super::parts::named_by;
use super::super::history::{Position, parent_of};
use super::commits::DATA;
use super::manifest::{Contents, Entry, FileEntry, Object, Segment};
use super::objects::{Content, Downloaded, Objects};
use crate::Result;
use crate::error::io_error;

/// What stands in the way of a local copy, if it is nothing that may be different the next time.
#[derive(Debug)]
pub(super) enum Unusable {
    /// Deleted, perhaps since the manifest was read.
    Missing(String),
    Damaged(String),
}

/// Uploads the files of a checkpoint, the index last. The names of all objects go to `uploaded` before they are complete.
pub(super) fn upload_checkpoint(objects: &Objects, path: &Path, uploaded: &mut Vec<String>) -> Result<Vec<FileEntry>> {
    let files = files_of(path);
    let upload = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let key = new_key(objects, &name)?;
        uploaded.push(key.clone());
        let content = objects.upload(&key, path)?;
        Ok(FileEntry { name, object: Object { key, content } })
    };
    files.iter().map(upload).collect()
}

/// The files of a checkpoint, the index last.
pub(super) fn files_of(path: &Path) -> Vec<PathBuf> {
    let mut files = if is_index(path) { named_by(path) } else { Vec::new() };
    files.push(path.to_owned());
    files
}

fn new_key(objects: &Objects, name: &str) -> Result<String> {
    let token = random_token().map_err(io_error(&objects.path_of(DATA), "draw a random number for"))?;
    Ok(format!("{DATA}/{name}-{}", &token[..16]))
}

/// Uploads what is new in the local copy of a history's file, which continues what is committed of it.
///
/// Chunks at the end that are not at least twice as large are uploaded again with it. So there are few of them, and each byte
/// is uploaded a few times at most.
pub(super) fn upload_segment(
    objects: &Objects,
    path: &Path,
    mut segment: Segment,
    uploaded: &mut Vec<String>,
) -> Result<Segment> {
    let mut file = File::open(path).map_err(io_error(path, "open"))?;
    let end = file.metadata().map_err(io_error(path, "find the size of"))?.len();
    let mut start = segment.bytes();
    if end <= start {
        return Ok(segment);
    }
    while let Some(last) = segment.chunks.pop_if(|last| last.content.bytes < 2 * (end - start)) {
        start -= last.content.bytes;
    }
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.take(end - start).read_to_end(&mut bytes));
    read.map_err(io_error(path, "read"))?;
    let key = new_key(objects, &segment.name)?;
    uploaded.push(key.clone());
    let content = Content::of(&bytes);
    objects.put(&key, bytes)?;
    segment.chunks.push(Object { key, content });
    Ok(segment)
}

/// Says whether the local copy of a history's file begins with all that is committed of it.
pub(super) fn is_continued(path: &Path, segment: &Segment) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let mut is_same = |chunk: &Object| read_content(&mut file, chunk.content.bytes).is_ok_and(|it| it == chunk.content);
    segment.chunks.iter().all(&mut is_same)
}

/// Makes a local copy of a checkpoint, unless it is there, and returns its path.
pub(super) fn fetch_checkpoint(objects: &Objects, entry: &Entry, folder: &Path) -> Result<Result<PathBuf, Unusable>> {
    for FileEntry { name, object } in &entry.files {
        let path = folder.join(name);
        if is_copy(&path, &object.content) {
            continue;
        }
        match objects.download(&object.key, &object.content, &path)? {
            Downloaded::Complete => {}
            Downloaded::Missing => return Ok(Err(Unusable::Missing(format!("the object {} is missing", object.key)))),
            Downloaded::Damaged(how) => {
                return Ok(Err(Unusable::Damaged(format!("the object {} is damaged: {how}", object.key))));
            }
        }
    }
    Ok(Ok(folder.join(&entry.name)))
}

/// Makes local copies of the history up to a position. Returns whether all of it was there; the rest is missing locally, too.
pub(super) fn fetch_history(
    objects: &Objects,
    contents: &Contents,
    position: Option<Position>,
    folder: &Path,
) -> Result<bool> {
    let mut next = position;
    let mut seen = BTreeSet::new();
    while let Some(at) = next.take() {
        let Some(segment) = contents.history.iter().find(|segment| segment.name == at.file) else { return Ok(false) };
        let path = folder.join(&segment.name);
        if !seen.insert(&segment.name) || !fetch_segment(objects, segment, &path)? {
            return Ok(false);
        }
        next = parent_of(&path);
    }
    Ok(true)
}

fn fetch_segment(objects: &Objects, segment: &Segment, path: &Path) -> Result<bool> {
    if is_continued(path, segment) {
        return Ok(true);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io_error(path, "delete")(error)),
        _ => {}
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let temporary = || tempfile::NamedTempFile::new_in(folder).map_err(io_error(path, "create a temporary file for"));
    let (mut whole, chunk_path) = (temporary()?, temporary()?.into_temp_path());
    for chunk in &segment.chunks {
        if objects.download(&chunk.key, &chunk.content, &chunk_path)? != Downloaded::Complete {
            return Ok(false);
        }
        let copied = File::open(&chunk_path).and_then(|mut part| io::copy(&mut part, &mut whole));
        copied.map_err(io_error(path, "write"))?;
    }
    whole.persist(path).map_err(|error| io_error(path, "write")(error.error))?;
    Ok(true)
}

/// Deletes local copies of checkpoints that exist no more.
pub(super) fn remove_outdated(contents: &Contents, folder: &Path) {
    let files = contents.checkpoints.iter().flat_map(|entry| &entry.files);
    let names: BTreeSet<&str> = files.map(|file| &*file.name).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(super::super::PREFIX) && !names.contains(name)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_copy(path: &Path, content: &Content) -> bool {
    let Ok(mut file) = File::open(path) else { return false };
    let has_size = file.metadata().is_ok_and(|metadata| metadata.len() == content.bytes);
    has_size && read_content(&mut file, content.bytes).is_ok_and(|it| it == *content)
}

/// Reads so many bytes, or fewer at the end of the file.
fn read_content(file: &mut File, bytes: u64) -> io::Result<Content> {
    let mut sum = Sha256::new();
    let bytes = io::copy(&mut file.take(bytes), &mut sum)?;
    Ok(Content { bytes, sha256: hex(&sum.finalize()) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::super::place::Place;
    use super::*;

    fn objects(folder: &Path) -> Objects {
        let url = format!("file://{}", folder.display());
        let Ok(Place::Remote(url)) = Place::of(Path::new(&url)) else { panic!("{url}") };
        Objects::new(url).unwrap()
    }

    #[test]
    fn a_growing_file_is_in_few_objects_and_each_byte_is_uploaded_few_times() {
        for max in [1, 40, 3000] {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let objects = objects(dirs[0].path());
            let path = dirs[1].path().join("history-0001.jsonl");
            let mut file = File::create(&path).unwrap();
            let mut random = ChaCha8Rng::seed_from_u64(max);
            let mut segment = Segment { name: "history-0001.jsonl".to_owned(), chunks: Vec::new() };
            let (mut total, mut sent) = (0, 0);
            for round in 0..300 {
                let bytes: Vec<u8> = (0..random.gen_range(1..=max)).map(|_| random.r#gen()).collect();
                file.write_all(&bytes).unwrap();
                total += bytes.len() as u64;
                let mut uploaded = Vec::new();
                segment = upload_segment(&objects, &path, segment, &mut uploaded).unwrap();
                assert_eq!((segment.bytes(), uploaded.len()), (total, 1));
                sent += segment.chunks.last().unwrap().content.bytes;
                assert!(segment.chunks.len() as f64 <= 2.0 + (total as f64).log2(), "{:?}", segment.chunks);
                if round % 50 == 0 {
                    let copy = dirs[2].path().join("history-0001.jsonl");
                    assert!(fetch_segment(&objects, &segment, &copy).unwrap());
                    assert_eq!(fs::read(&copy).unwrap(), fs::read(&path).unwrap());
                }
            }
            assert!(sent as f64 <= total as f64 * (total as f64).log2(), "{sent} for {total} bytes");
            let unchanged = upload_segment(&objects, &path, segment.clone(), &mut Vec::new()).unwrap();
            assert_eq!(unchanged, segment);
        }
    }

    #[test]
    fn a_local_copy_of_another_content_is_replaced() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let objects = objects(dirs[0].path());
        let path = dirs[1].path().join("history-0001.jsonl");
        fs::write(&path, "one\ntwo\n").unwrap();
        let segment = Segment { name: "history-0001.jsonl".to_owned(), chunks: Vec::new() };
        let segment = upload_segment(&objects, &path, segment, &mut Vec::new()).unwrap();
        for other in ["", "one\n", "one\nTWO\n", "something else that is longer"] {
            fs::write(&path, other).unwrap();
            assert!(!is_continued(&path, &segment));
            assert!(fetch_segment(&objects, &segment, &path).unwrap());
            assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        }
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert!(fetch_segment(&objects, &segment, &path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n", "lines that are not committed yet stay");
    }
}
