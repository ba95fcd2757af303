use std::{
    env, fs,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use minitoolstream_testkit::{Process, SeaweedFs, Tarantool};

use super::{PROGRAMS, page::Page, programs};
use crate::{
    file,
    tools::{output, program},
};

const BINARY: &str = env!("CARGO_BIN_EXE_minitoolstream");

/// Programs that are used as they are. A page that needs another names it here, or gets one below `programs`.
const KNOWN: &str = "base64 basename bash cat cmp cp cut df dirname du echo env grep gzip head kill ls mkdir mktemp od rm sed seq \
                     sha256sum sh sleep sort tail tar timeout touch tr";

/// A film that is uploaded in parts, and one of the size that a page names.
const FILMS: [(&str, usize); 2] = [("film.mov", 9_000_000), ("film.mp4", 3_000_000)];

/// What a reader did before: all that a page speaks of is there.
const BEFORE: &str = "
seq 150 | minitoolstream publish orders.new --lines
seq 1100 | minitoolstream publish logs.debug --lines
minitoolstream consume billing --filter 'orders.>' --max-deliver 1 --exec 'exit 100' --limit 4 || true
";

/// Where a reader follows a page: a directory like that of the repository, with programs that do what can be done without a
/// cluster, and say what they were asked for.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    broker: Option<Process>,
    stores: Option<(Tarantool, SeaweedFs)>,
}

impl Stage {
    /// Without a broker.
    pub(crate) fn bare() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let here = |name: &str| dir.path().join(name);
        for entry in fs::read_dir(file("")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !["target", "tests", ".git", ".ci", "docs"].contains(&name.as_str()) {
                symlink(file(&name), here(&name)).unwrap();
            }
        }
        for name in ["bin", "tests", ".ci", "docs", "target/release", "root"] {
            fs::create_dir_all(here(name)).unwrap();
        }
        // What a page may write to.
        for name in ["configuration.md", "metrics.md"] {
            fs::copy(file(&format!("docs/{name}")), here(&format!("docs/{name}"))).unwrap();
        }
        for name in KNOWN.split_whitespace() {
            symlink(found(name), here("bin").join(name)).unwrap();
        }
        for name in programs() {
            symlink(file(PROGRAMS).join(&name), here("bin").join(&name)).unwrap();
        }
        symlink(file(PROGRAMS).join("minitoolstream"), here("target/release/minitoolstream")).unwrap();
        for name in ["tests/run", ".ci/run"] {
            assert!(file(name).exists());
            // They run this test.
            symlink(found("true"), here(name)).unwrap();
        }
        Self { dir, broker: None, stores: None }
    }

    /// With a broker at work, data of one that was stopped, files of a reader, and all that a page speaks of.
    pub(crate) fn set() -> Self {
        let mut stage = Self::bare();
        for (name, size) in FILMS {
            let mut random = fastrand::Rng::with_seed(size as u64);
            let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
            fs::write(stage.path().join(name), bytes).unwrap();
        }
        for name in ["cat.jpg", "dog.jpg"] {
            fs::write(stage.path().join(name), name).unwrap();
        }
        symlink(found("true"), stage.path().join("resize.sh")).unwrap();
        // An installation is there, and its Secrets.
        fs::write(stage.path().join("secrets"), "").unwrap();
        let settings = &Page::read("docs/configuration.md").blocks_of("yaml")[0].text;
        fs::write(stage.path().join("minitoolstream.yaml"), settings).unwrap();
        let mut stopped = Process::start(BINARY, stage.path(), &[]);
        output(
            Command::new(BINARY)
                .args(["publish", "greetings", "--data", "hello", "--address"])
                .arg(format!("http://{}", stopped.address("ingress"))),
        );
        assert!(stopped.terminate().success());
        let copy = stage.path().join("root/var/lib");
        fs::create_dir_all(&copy).unwrap();
        output(Command::new("cp").arg("-r").arg(stopped.data_dir()).arg(copy.join("minitoolstream")));
        stage.broker = Some(Process::start(BINARY, &stage.path().join("running"), &[]));
        output(&mut stage.bash(BEFORE));
        stage
    }

    /// The same, with stores that many brokers share.
    pub(crate) fn with_stores() -> Self {
        let stores = (Tarantool::start(&[]), SeaweedFs::start(env!("CARGO_TARGET_TMPDIR")));
        Self { stores: Some(stores), ..Self::set() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A script, as somebody types it who stops at the first error.
    pub(crate) fn bash(&self, text: &str) -> Command {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", text]).current_dir(self.path()).stdin(Stdio::null()).env_clear();
        bash.env("PATH", self.path().join("bin")).env("HOME", self.path()).env("ROOT", env!("CARGO_MANIFEST_DIR"));
        bash.env("CALLS", self.path().join("calls")).env("KUBECTL", program("kubectl")).env("HELM", program("helm"));
        bash.env("BINARY", BINARY).env("CARGO", env!("CARGO")).env("REAL_PATH", env::var_os("PATH").unwrap());
        bash.env("REAL_HOME", env::var_os("HOME").unwrap());
        for name in ["CARGO_HOME", "RUSTUP_HOME"] {
            bash.envs(env::var_os(name).map(|home| (name, home)));
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        bash.env("FREE_PORT", port.to_string());
        for (name, key) in [("INGRESS", "ingress"), ("EGRESS", "egress"), ("HTTP", "http")] {
            // The port of nobody, without a broker.
            let address = self.broker.as_ref().map_or_else(|| "127.0.0.1:1".into(), |broker| broker.address(key));
            bash.env(name, address);
        }
        if let Some((tarantool, s3)) = &self.stores {
            let stores = minitoolstream_testkit::environment(&tarantool.config(), &s3.settings("letters"));
            let stores: Vec<_> = stores.iter().map(|(name, value)| format!("{name}={value}")).collect();
            bash.env("STORES", stores.join(" "));
        }
        bash
    }

    /// All calls of programs since the last time.
    pub(crate) fn calls(&self) -> String {
        let path = self.path().join("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        calls
    }
}

/// Where a program of this machine is.
fn found(name: &str) -> PathBuf {
    let dirs = ["/usr/bin", "/bin"].map(PathBuf::from);
    let mut places = dirs.iter().map(|dir| dir.join(name));
    places.find(|path| path.exists()).unwrap_or_else(|| panic!("there is no {name}"))
}
