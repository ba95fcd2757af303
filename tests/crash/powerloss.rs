//! Power cuts: runs a broker under `powerloss.c`, and takes back what the disk need not have kept.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::undo_log::{Kind, PAGE, Record, read_log};

const NAME: &str = "powerloss";
const SOURCE: &str = include_str!("powerloss.c");

/// How much of what was not synced is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing: the process died, and the machine lived.
    Nothing,
    /// All of it.
    Everything,
    /// Some changes of some pages, as if the disk had written the others in an order of its own.
    SomePages,
}

/// The compiled `powerloss.c`.
pub(crate) struct Shim(TempDir);

impl Shim {
    pub(crate) fn compile() -> Self {
        let shim = Self(tempfile::tempdir().unwrap());
        compile(shim.0.path(), NAME, SOURCE);
        shim
    }

    fn library(&self) -> PathBuf {
        self.0.path().join(NAME).with_extension("so")
    }
}

/// Compiles C to a library that is loaded with `LD_PRELOAD`; gives its path.
pub(crate) fn compile(dir: &Path, name: &str, source: &str) -> PathBuf {
    let (source_path, library) = (dir.join(name).with_extension("c"), dir.join(name).with_extension("so"));
    fs::write(&source_path, source).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut compile = Command::new(&compiler);
    compile.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source_path);
    let status = compile.status().unwrap_or_else(|error| panic!("'{compiler}', which rustc links with: {error}"));
    assert!(status.success(), "{name}.c compiles");
    library
}

/// What happened below one directory, and what it takes to undo it.
pub(crate) struct PowerLoss {
    /// Holds the log, the grave and the countdown.
    home: TempDir,
    watched: PathBuf,
    shim: PathBuf,
}

/// What a cut took back, and how much it found safe.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cut {
    /// Changes of files and names that were synced.
    pub(crate) durable: usize,
    /// Changes that were not.
    pub(crate) volatile: usize,
    /// Pages, sizes and names set back.
    pub(crate) undone: usize,
}

impl PowerLoss {
    /// Makes ready for brokers that are to be watched below `dir`, an existing directory.
    pub(crate) fn below(dir: &Path, shim: &Shim) -> Self {
        let watched = dir.canonicalize().unwrap();
        // Removed files are kept by a second name, which must be on the same file system.
        let home = tempfile::tempdir_in(watched.parent().unwrap()).unwrap();
        fs::create_dir(home.path().join("grave")).unwrap();
        fs::write(home.path().join("countdown"), [0; 8]).unwrap();
        Self { home, watched, shim: shim.library() }
    }

    /// The environment of a broker that is to be watched.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec![
            ("LD_PRELOAD", text(self.shim.clone())),
            ("MTS_POWERLOSS_DIR", text(self.watched.clone())),
            ("MTS_POWERLOSS_LOG", text(self.log())),
            ("MTS_POWERLOSS_GRAVE", text(self.home.path().join("grave"))),
            ("MTS_POWERLOSS_STOP", text(self.countdown())),
        ]
    }

    /// Kills the broker in place of its `step`th change or sync from now on, or never.
    pub(crate) fn stop_at(&self, step: Option<u64>) {
        let file = OpenOptions::new().write(true).open(self.countdown()).unwrap();
        file.write_all_at(&step.unwrap_or(0).to_ne_bytes(), 0).unwrap();
    }

    /// Waits for that step; gives up after a while without changes.
    pub(crate) async fn stopped(&self) {
        for _ in 0..500 {
            if fs::read(self.countdown()).unwrap() == [0; 8] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// After a kill without a power cut: the log goes on behind its last whole record.
    pub(crate) fn keep(&self) {
        let (_, whole) = read_log(&self.log());
        OpenOptions::new().write(true).open(self.log()).unwrap().set_len(whole).unwrap();
    }

    /// Takes back what was not synced, now that the broker is dead, and begins a new log.
    pub(crate) fn cut(&self, loss: Loss, rng: &mut fastrand::Rng) -> Cut {
        let (records, _) = read_log(&self.log());
        let mut synced: HashMap<u64, u64> = HashMap::new();
        for record in records.iter().filter(|record| record.kind == Kind::Sync) {
            let upto = synced.entry(record.inode).or_default();
            *upto = record.offset.max(*upto);
        }
        let changes = records.iter().filter(|record| record.kind != Kind::Sync);
        let (durable, volatile): (Vec<_>, Vec<_>) =
            changes.partition(|change| synced.get(&change.inode).is_some_and(|upto| change.at < *upto));
        let mut by_inode: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
        for change in &volatile {
            by_inode.entry(change.inode).or_default().push(change);
        }
        let mut cut = Cut { durable: durable.len(), volatile: volatile.len(), undone: 0 };
        // Names first: then every file that is left stands where its inode says.
        for names in by_inode.values().filter(|changes| changes[0].kind.is_of_names()) {
            let kept = survivors(names.len(), loss, rng);
            names[kept..].iter().rev().for_each(|change| self.undo_name(change));
            cut.undone += names.len() - kept;
        }
        let mut paths = HashMap::new();
        find_files(&self.watched, &mut paths);
        let log = File::open(self.log()).unwrap();
        for (inode, changes) in by_inode.iter().filter(|(_, changes)| !changes[0].kind.is_of_names()) {
            if let Some(path) = paths.get(inode) {
                cut.undone += undo_content(path, changes, &log, loss, rng);
            }
        }
        self.forget();
        cut
    }

    fn log(&self) -> PathBuf {
        self.home.path().join("log")
    }

    fn countdown(&self) -> PathBuf {
        self.home.path().join("countdown")
    }

    fn forget(&self) {
        let grave = self.home.path().join("grave");
        fs::remove_dir_all(&grave).unwrap();
        fs::create_dir(&grave).unwrap();
        fs::write(self.log(), []).unwrap();
    }

    fn undo_name(&self, change: &Record) {
        let path = Path::new(&change.path);
        match change.kind {
            Kind::Create if path.is_dir() => fs::remove_dir_all(path).unwrap(),
            Kind::Create if path.exists() => fs::remove_file(path).unwrap(),
            Kind::Remove if !path.exists() && path.parent().is_some_and(Path::exists) => {
                fs::rename(self.home.path().join("grave").join(change.offset.to_string()), path).unwrap();
            }
            Kind::Rename => {
                let (from, to) = change.path.split_at(usize::try_from(change.length).unwrap());
                if Path::new(to).exists() {
                    fs::rename(to, from).unwrap();
                }
            }
            // The broker died before it made the change.
            _ => {}
        }
    }
}

/// How many of the first `count` changes of one thing reached the disk before the power went.
fn survivors(count: usize, loss: Loss, rng: &mut fastrand::Rng) -> usize {
    match loss {
        Loss::Nothing => count,
        Loss::Everything => 0,
        Loss::SomePages => match rng.u8(0..3) {
            0 => 0,
            1 => count,
            _ => rng.usize(0..=count),
        },
    }
}

/// Sets pages and the size of one file back. A page holds the first so many of its changes, or none of them.
fn undo_content(path: &Path, changes: &[&Record], log: &File, loss: Loss, rng: &mut fastrand::Rng) -> usize {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    let mut resized = 0;
    for change in changes {
        change.pages().for_each(|page| *counts.entry(page).or_default() += 1);
        resized += usize::from(change.resizes());
    }
    let kept: HashMap<u64, usize> = counts.iter().map(|(page, count)| (*page, survivors(*count, loss, rng))).collect();
    let sizes_kept = survivors(resized, loss, rng);
    let mut undone = resized - sizes_kept;
    let mut size = file.metadata().unwrap().len();
    for change in changes.iter().rev() {
        let old = change.old_content(log);
        for page in change.pages() {
            let count = counts.get_mut(&page).unwrap();
            *count -= 1;
            if *count >= kept[&page] {
                let from = change.offset.max(page * PAGE);
                let to = (change.offset + change.length).min((page + 1) * PAGE);
                let range =
                    usize::try_from(from - change.offset).unwrap()..usize::try_from(to - change.offset).unwrap();
                file.write_all_at(&old[range], from).unwrap();
                undone += 1;
            }
        }
        if change.resizes() {
            resized -= 1;
            if resized >= sizes_kept {
                size = change.size;
                if change.kind == Kind::Size && change.size > change.length {
                    file.write_all_at(&old, change.length).unwrap();
                }
            }
        }
    }
    file.set_len(size).unwrap();
    undone
}

fn find_files(dir: &Path, paths: &mut HashMap<u64, PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            find_files(&entry.path(), paths);
        } else {
            paths.insert(entry.metadata().unwrap().ino(), entry.path());
        }
    }
}
