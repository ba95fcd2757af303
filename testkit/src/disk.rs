use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tempfile::TempDir;

/// Mounts, says so, and then mounts anew with the options that it is told.
const SCRIPT: &str = r#"mount -t tmpfs -o "size=$1" tmpfs "$0" && echo ready &&
    while read -r options; do mount -o "remount,$options" "$0" && echo done; done"#;

/// A file system of its own, of a few megabytes, in memory: it can be filled up and made read-only.
///
/// It is mounted in a user and mount namespace that a shell holds open, so no right is needed beyond that to make such
/// namespaces; others reach it through that process. It goes with the value, or with the test's process.
pub struct SmallDisk {
    holder: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    mount_point: TempDir,
}

impl SmallDisk {
    /// A disk of about this many bytes. A machine that does not let tests make one fails the test: it never passes for
    /// want of a disk.
    pub fn new(bytes: u64) -> Self {
        let mount_point = tempfile::tempdir().unwrap();
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT])
            .arg(mount_point.path())
            .arg(bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test needs 'unshare' of util-linux");
        let (orders, answers) = (holder.stdin.take().unwrap(), BufReader::new(holder.stdout.take().unwrap()));
        let mut disk = Self { holder, orders, answers, mount_point };
        let answer = disk.answer();
        assert_eq!(answer, "ready", "this test needs a user and mount namespace: 'unshare -Urm mount ...' must work");
        disk
    }

    /// Where it is, for every process of this machine.
    pub fn path(&self) -> PathBuf {
        let mount_point = self.mount_point.path().strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(mount_point)
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    /// Fills it with a file until `free` bytes are left.
    pub fn fill_up_to(&self, free: u64) {
        let file = File::options().create(true).append(true).open(self.filler()).unwrap();
        let chunk = vec![0xF1; 1 << 20];
        let mut left = self.free().saturating_sub(free);
        while left > 0 {
            let len = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match (&file).write(&chunk[..len]) {
                Ok(written) => left -= written as u64,
                // What the file system counts as free need not be writable to the last byte.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => panic!("the disk cannot be filled: {error}"),
            }
        }
    }

    /// Removes the file that filled it.
    pub fn clear(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    /// Refuses all writes from now on.
    pub fn make_read_only(&mut self) {
        writeln!(self.orders, "ro").unwrap();
        assert_eq!(self.answer(), "done", "the disk can be mounted read-only");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
