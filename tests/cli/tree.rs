use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the broker takes in one message by default.
const MESSAGE_MAX: usize = 8 << 20;

const FILES_MIN: usize = 2_000;
const FILES_ENOUGH: usize = 2_500;
const BYTES_MAX: u64 = 120 << 20;

/// One file of some size for each so many: a reader that is cut off then has more before it than any buffer holds.
const LARGE_EVERY: usize = 30;
const LARGE: usize = 700_000;

/// Copies real files below `to`, whole directories of them: sources of the crates that this project is built from, or
/// else what came with the toolchain. Some of awkward sizes and names are added. Gives how many there are.
pub(crate) fn plant(to: &Path) -> usize {
    let mut copied = Copied::default();
    let directories = sources();
    for (dir, number) in directories.iter().zip(0..) {
        if copied.files >= FILES_ENOUGH || copied.bytes >= BYTES_MAX {
            break;
        }
        // Two sources may have directories of one name.
        let name = format!("{number}-{}", dir.file_name().unwrap().to_string_lossy());
        copied.copy_all(dir, &to.join(name));
    }
    let awkward = [
        ("empty".to_owned(), 0),
        ("one byte".to_owned(), 1),
        ("largest".to_owned(), MESSAGE_MAX),
        ("multi".to_owned(), 3 << 20),
        ("n".repeat(255), 10),
        ("größe.日本".to_owned(), 10),
        ("new\nline 'quoted' --option".to_owned(), 10),
        (".hidden".to_owned(), 10),
    ];
    fs::create_dir_all(to.join("awkward")).unwrap();
    for (name, size) in awkward {
        copied.make(&to.join("awkward").join(name), size);
    }
    assert!(copied.files >= FILES_MIN, "this machine has only {} files to try", copied.files);
    copied.files
}

#[derive(Default)]
struct Copied {
    files: usize,
    bytes: u64,
}

impl Copied {
    fn copy_all(&mut self, from: &Path, to: &Path) {
        for path in sorted(from) {
            let kind = fs::symlink_metadata(&path).unwrap();
            let target = to.join(path.file_name().unwrap());
            if kind.is_dir() {
                self.copy_all(&path, &target);
            } else if kind.is_file() && kind.len() <= MESSAGE_MAX as u64 && self.bytes + kind.len() <= BYTES_MAX {
                fs::create_dir_all(to).unwrap();
                fs::copy(&path, target).unwrap();
                self.files += 1;
                self.bytes += kind.len();
                if self.files.is_multiple_of(LARGE_EVERY) {
                    self.make(&to.join(format!("large-{}", self.files)), LARGE);
                }
            }
        }
    }

    /// Writes a file of bytes that tell of their place.
    fn make(&mut self, path: &Path, size: usize) {
        let bytes: Vec<u8> = (0..size).map(|at| (at / 251 + at + self.files).to_le_bytes()[0]).collect();
        fs::write(path, bytes).unwrap();
        self.files += 1;
        self.bytes += size as u64;
    }
}

/// Directories with real files: those with a file of more than 1 MB first.
fn sources() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let registries = cargo.map_or_else(Vec::new, |cargo| children(&cargo.join("registry/src")));
    let mut crates: Vec<_> = registries.iter().flat_map(|registry| children(registry)).collect();
    crates.sort_by_cached_key(|dir| (!has_large_file(dir), dir.clone()));
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    let sysroot = sysroot.map_or_else(|_| String::new(), |output| String::from_utf8(output.stdout).unwrap());
    let shared = Path::new(sysroot.trim()).join("share");
    [crates, children(&shared)].concat()
}

fn children(dir: &Path) -> Vec<PathBuf> {
    if dir.is_dir() { sorted(dir).into_iter().filter(|path| path.is_dir()).collect() } else { Vec::new() }
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn has_large_file(dir: &Path) -> bool {
    sorted(dir).iter().any(|path| {
        let kind = fs::symlink_metadata(path).unwrap();
        kind.is_file() && kind.len() > 1_000_000 || kind.is_dir() && has_large_file(path)
    })
}
