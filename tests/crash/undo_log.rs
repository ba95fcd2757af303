//! The log that `powerloss.c` writes.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, path::Path};

/// What a disk writes at once: a page of the cache.
pub(crate) const PAGE: u64 = 4096;

/// Bytes of a record before its path.
const HEADER: usize = 48;

const MAGIC: u32 = 0x4c54_534d;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Write,
    Size,
    Create,
    Remove,
    Rename,
    Sync,
}

impl Kind {
    /// Whether a directory is changed.
    pub(crate) fn is_of_names(self) -> bool {
        matches!(self, Self::Create | Self::Remove | Self::Rename)
    }
}

/// One entry of the log, as `struct record` in `powerloss.c` has it. Old content stays in the log.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) at: u64,
    pub(crate) kind: Kind,
    pub(crate) inode: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) size: u64,
    pub(crate) path: String,
    data_at: u64,
    data_len: usize,
}

impl Record {
    /// The pages of a file that it changed.
    pub(crate) fn pages(&self) -> Range<u64> {
        match self.kind {
            Kind::Write => self.offset / PAGE..(self.offset + self.length).div_ceil(PAGE),
            _ => 0..0,
        }
    }

    /// Whether the file got another size by it.
    pub(crate) fn resizes(&self) -> bool {
        self.kind == Kind::Size || self.offset + self.length > self.size
    }

    /// What the change replaced, zeros included.
    pub(crate) fn old_content(&self, log: &File) -> Vec<u8> {
        let len = if self.kind == Kind::Size { self.size.saturating_sub(self.length) } else { self.length };
        let mut old = vec![0; usize::try_from(len).unwrap()];
        log.read_exact_at(&mut old[..self.data_len], self.data_at).unwrap();
        old
    }
}

/// All whole records, and where they end: the broker may have been killed while it wrote one.
pub(crate) fn read_log(path: &Path) -> (Vec<Record>, u64) {
    let mut records = Vec::new();
    let Ok(log) = File::open(path) else {
        return (records, 0);
    };
    let len = log.metadata().unwrap().len();
    let mut at = 0;
    while at + HEADER as u64 <= len {
        let mut header = [0; HEADER];
        log.read_exact_at(&mut header, at).unwrap();
        let small = |from: usize| u32::from_ne_bytes(header[from..from + 4].try_into().unwrap());
        let large = |from: usize| u64::from_ne_bytes(header[from..from + 8].try_into().unwrap());
        assert_eq!(small(0), MAGIC, "a record begins at {at}");
        let (path_len, data_len) = (small(40) as usize, small(44) as usize);
        let data_at = at + (HEADER + path_len) as u64;
        if data_at + data_len as u64 > len {
            break;
        }
        let mut path = vec![0; path_len];
        log.read_exact_at(&mut path, at + HEADER as u64).unwrap();
        let kinds = [Kind::Write, Kind::Size, Kind::Create, Kind::Remove, Kind::Rename, Kind::Sync];
        records.push(Record {
            at,
            kind: kinds[small(4) as usize - 1],
            inode: large(8),
            offset: large(16),
            length: large(24),
            size: large(32),
            path: String::from_utf8(path).unwrap(),
            data_at,
            data_len,
        });
        at = data_at + data_len as u64;
    }
    (records, at)
}
