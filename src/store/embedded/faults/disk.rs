//! A disk in memory that keeps apart what was written and what was synced, and fails the calls that a test names.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::super::disk::{Create, Disk, DiskFile, DiskSpace, OpenMode};
use crate::error::Error;

/// Bytes of which space is taken together.
const PAGE: usize = 4096;

/// Calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Call {
    Open,
    Read,
    Write,
    SetLen,
    Allocate,
    Sync,
    Rename,
    Remove,
    List,
    SyncDir,
}

/// Ways to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fault {
    /// `EIO`, once: the next try succeeds.
    Passing,
    /// `EIO` of this call and of every later one like it on the file.
    Lasting,
    /// `ENOSPC`.
    Full,
    /// Half of the bytes are written, then `EIO`.
    Short,
    /// The process ends before the call.
    Kill,
}

impl Fault {
    /// The ways in which a call can fail.
    pub(super) fn of(call: Call) -> &'static [Self] {
        match call {
            Call::Write => &[Self::Passing, Self::Lasting, Self::Full, Self::Short, Self::Kill],
            Call::Sync => &[Self::Passing, Self::Lasting, Self::Full, Self::Kill],
            Call::Open | Call::Rename | Call::SyncDir | Call::SetLen | Call::Allocate => {
                &[Self::Passing, Self::Full, Self::Kill]
            }
            Call::Remove => &[Self::Passing, Self::Lasting, Self::Kill],
            Call::Read | Call::List => &[Self::Passing, Self::Lasting],
        }
    }
}

/// The name of a file without its number, for counts.
pub(super) fn kind_of(path: &Path) -> String {
    let name = path.to_string_lossy();
    ["segments", "objects", "lost+found"]
        .into_iter()
        .find(|dir| name.contains(dir))
        .map_or_else(|| path.file_name().unwrap_or_default().to_string_lossy().into_owned(), str::to_owned)
}

#[derive(Default)]
struct Inode {
    /// What reads see.
    cached: Vec<u8>,
    /// What the device has.
    durable: Vec<u8>,
    /// Sectors that were written since the last sync.
    dirty: BTreeSet<usize>,
    /// Sectors that a failed sync has lost: they are no longer dirty, and not on the device.
    lost: BTreeSet<usize>,
    durable_len: usize,
    /// Pages that take space; others are holes.
    pages: BTreeSet<usize>,
}

/// What is to fail, and what has failed.
#[derive(Default)]
struct Plan {
    /// The call that fails, counted from 0, and how.
    at: Option<(u64, Fault)>,
    /// Calls on a file that fail from now on.
    lasting: Option<(Call, PathBuf)>,
    /// One call in so many fails.
    one_in: Option<u64>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that are not durable, in order.
    changes: Vec<Change>,
    inodes: HashMap<u64, Inode>,
    next: u64,
    capacity: u64,
    others: u64,
    plan: Plan,
    calls: Vec<(Call, String)>,
    log: Vec<(u64, Call, String, Fault)>,
    injected: BTreeMap<(Call, String, Fault), u64>,
    random: fastrand::Rng,
    /// Counts processes: handles of an earlier one are of no use.
    process: u64,
    /// Whether the process at work has ended.
    is_dead: bool,
    /// Bytes that reach the device together.
    sector: usize,
}

/// A change of names.
#[derive(Clone, Debug)]
struct Change {
    removed: Option<PathBuf>,
    added: Option<(PathBuf, u64)>,
}

impl Change {
    fn is_in(&self, dir: &Path) -> bool {
        let path = self.removed.as_ref().or(self.added.as_ref().map(|(path, _)| path));
        path.is_some_and(|path| path.parent() == Some(dir))
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        if let Some(removed) = self.removed {
            names.remove(&removed);
        }
        names.extend(self.added);
    }
}

/// See the [module](self). Clones share it.
#[derive(Clone)]
pub(super) struct FailingDisk(Arc<Mutex<State>>);

impl std::fmt::Debug for FailingDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FailingDisk")
    }
}

/// Counts of injected faults, by call, file and way.
pub(super) type Injected = BTreeMap<(Call, String, Fault), u64>;

impl FailingDisk {
    /// A disk of `capacity` bytes, of which 512 or 4,096 reach the device together, by the seed.
    pub(super) fn new(seed: u64, capacity: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let sector = if seed.is_multiple_of(2) { 512 } else { 4096 };
        Self(Arc::new(Mutex::new(State { random, capacity, sector, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails one call, counted from the first that the disk ever saw.
    pub(super) fn fail_at(&self, call: u64, fault: Fault) {
        self.state().plan.at = Some((call, fault));
    }

    /// Fails one call in so many.
    pub(super) fn fail_one_in(&self, calls: u64) {
        self.state().plan.one_in = Some(calls);
    }

    /// Fails no call any more.
    pub(super) fn heal(&self) {
        self.state().plan = Plan::default();
    }

    /// The calls so far, and the kinds of files that they were on.
    pub(super) fn calls(&self) -> Vec<(Call, String)> {
        self.state().calls.clone()
    }

    /// The calls that failed, in order.
    pub(super) fn log(&self) -> Vec<(u64, Call, String, Fault)> {
        self.state().log.clone()
    }

    pub(super) fn injected(&self) -> Injected {
        self.state().injected.clone()
    }

    /// Other programs take all of the disk that is free.
    pub(super) fn fill_up(&self) {
        let mut state = self.state();
        state.others += state.free();
    }

    /// What other programs took is free again.
    pub(super) fn clear(&self) {
        self.state().others = 0;
    }

    /// The process ends: its handles are of no use any more, what it wrote stays in the page cache.
    pub(super) fn kill(&self) {
        self.state().end_process();
    }

    /// Whether the process has ended in the middle of a call.
    pub(super) fn is_dead(&self) -> bool {
        self.state().is_dead
    }

    /// Whether what failed so may have been done: that is what the answer says, or there was none.
    pub(super) fn is_unknown(&self, error: &Error) -> bool {
        *error == Error::outcome_unknown() || self.is_dead()
    }

    /// The power goes: of what was not synced each sector, length and name is there or not.
    pub(super) fn lose_power(&self) {
        let state = &mut *self.state();
        state.end_process();
        let (random, size) = (&mut state.random, state.sector);
        for inode in state.inodes.values_mut() {
            let Inode { cached, durable, dirty, lost, durable_len, pages: _ } = inode;
            let len = if random.bool() { cached.len() } else { *durable_len };
            durable.resize(len, 0);
            for sector in dirty.iter().chain(lost.iter()) {
                let range = sector * size..((sector + 1) * size).min(len).min(cached.len());
                if range.start < range.end && random.bool() {
                    durable[range.clone()].copy_from_slice(&cached[range]);
                }
            }
            cached.clone_from(durable);
            *durable_len = len;
            dirty.clear();
            lost.clear();
        }
        let kept = state.random.usize(..=state.changes.len());
        let changes = std::mem::take(&mut state.changes);
        changes.into_iter().take(kept).for_each(|change| change.apply(&mut state.durable_names));
        state.names = state.durable_names.clone();
    }

    /// The bytes of a file, as reads see them.
    pub(super) fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        Some(state.inodes[state.names.get(path)?].cached.clone())
    }

    /// Replaces a file, durably; `None` removes it.
    pub(super) fn put(&self, path: &Path, content: Option<Vec<u8>>) {
        let state = &mut *self.state();
        let Some(content) = content else {
            state.names.remove(path);
            state.durable_names.remove(path);
            return;
        };
        state.next += 1;
        let durable_len = content.len();
        let pages = (0..durable_len.div_ceil(PAGE)).collect();
        let inode = Inode { durable: content.clone(), cached: content, durable_len, pages, ..Inode::default() };
        state.inodes.insert(state.next, inode);
        state.names.insert(path.into(), state.next);
        state.durable_names.insert(path.into(), state.next);
    }
}

impl State {
    /// Counts a call and fails it, if it is to fail: gives how much of a write goes through before.
    fn enter(&mut self, call: Call, path: &Path, writes: usize) -> io::Result<Option<usize>> {
        if self.is_dead {
            return Err(gone());
        }
        let number = self.calls.len() as u64;
        self.calls.push((call, kind_of(path)));
        let fault = match (&self.plan.at, &self.plan.lasting, self.plan.one_in) {
            (_, Some((of, on)), _) if (*of, on.as_path()) == (call, path) => Some(Fault::Lasting),
            (Some((at, fault)), ..) if *at == number => Some(*fault),
            (.., Some(one_in)) if self.random.u64(..one_in) == 0 => {
                let ways: Vec<_> = Fault::of(call).iter().filter(|way| **way != Fault::Kill).collect();
                Some(*ways[self.random.usize(..ways.len())])
            }
            _ => None,
        };
        let Some(fault) = fault else { return Ok(None) };
        *self.injected.entry((call, kind_of(path), fault)).or_default() += 1;
        self.log.push((number, call, kind_of(path), fault));
        match fault {
            Fault::Full => Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())),
            Fault::Kill => {
                self.is_dead = true;
                Err(gone())
            }
            Fault::Short if call == Call::Write => Ok(Some(writes / 2)),
            Fault::Lasting if self.plan.one_in.is_none() => {
                self.plan.lasting = Some((call, path.into()));
                Err(eio())
            }
            Fault::Lasting | Fault::Passing | Fault::Short => Err(eio()),
        }
    }

    /// Takes space for a range of a file.
    fn take(&mut self, inode: u64, range: Range<usize>) -> io::Result<()> {
        let pages = range.start / PAGE..range.end.div_ceil(PAGE);
        let known = &self.inodes[&inode].pages;
        let new: Vec<_> = pages.filter(|page| !known.contains(page)).collect();
        if (new.len() * PAGE) as u64 > self.free() {
            return Err(full());
        }
        self.inodes.entry(inode).or_default().pages.extend(new);
        Ok(())
    }

    fn change(&mut self, removed: Option<PathBuf>, added: Option<(PathBuf, u64)>) {
        let change = Change { removed, added };
        change.clone().apply(&mut self.names);
        self.changes.push(change);
    }

    fn end_process(&mut self) {
        self.process += 1;
        self.is_dead = false;
    }

    fn free(&self) -> u64 {
        let pages: usize = self.names.values().map(|inode| self.inodes[inode].pages.len()).sum();
        self.capacity.saturating_sub((pages * PAGE) as u64 + self.others)
    }
}

fn gone() -> io::Error {
    io::Error::other("the process is gone")
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error())
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for FailingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.enter(Call::Open, path, 0)?;
        let inode = match (state.names.get(path).copied(), mode.create) {
            (Some(_), Create::New) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, Create::Never) => return Err(missing()),
            (Some(inode), Create::IfMissing | Create::Never) => inode,
            (_, Create::Empty) | (None, _) => {
                state.next += 1;
                let inode = state.next;
                state.inodes.insert(inode, Inode::default());
                state.change(None, Some((path.into(), inode)));
                inode
            }
        };
        let process = state.process;
        Ok(Arc::new(FailingFile { disk: self.clone(), path: path.into(), inode, process }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.enter(Call::Rename, to, 0)?;
        let inode = *state.names.get(from).ok_or_else(missing)?;
        state.change(Some(from.into()), Some((to.into(), inode)));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.enter(Call::Remove, path, 0)?;
        state.names.get(path).ok_or_else(missing)?;
        state.change(Some(path.into()), None);
        Ok(())
    }

    fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        let state = self.state();
        Ok(state.names.get(path).map(|inode| state.inodes[inode].cached.len() as u64))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.enter(Call::List, dir, 0)?;
        let below = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(below.map(|(path, inode)| (name(path), state.inodes[inode].cached.len() as u64)).collect())
    }

    fn make_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.enter(Call::SyncDir, dir, 0)?;
        let (synced, left) = std::mem::take(&mut state.changes).into_iter().partition(|change| change.is_in(dir));
        state.changes = left;
        Vec::into_iter(synced).for_each(|change: Change| change.apply(&mut state.durable_names));
        Ok(())
    }

    fn space(&self, _: &Path) -> io::Result<DiskSpace> {
        let state = self.state();
        Ok(DiskSpace { size: state.capacity, free: state.free() })
    }
}

#[derive(Debug)]
struct FailingFile {
    disk: FailingDisk,
    path: PathBuf,
    inode: u64,
    process: u64,
}

impl FailingFile {
    /// Counts a call, fails it if it is to fail, and refuses those of a process that is gone.
    fn enter(&self, call: Call, writes: usize) -> io::Result<(MutexGuard<'_, State>, Option<usize>)> {
        let mut state = self.disk.state();
        if state.process != self.process {
            return Err(gone());
        }
        match state.enter(call, &self.path, writes) {
            Ok(cut) => Ok((state, cut)),
            Err(error) if call == Call::Sync && !state.is_dead => {
                // Linux marks pages clean whose write failed.
                let state = &mut *state;
                let inode = state.inodes.entry(self.inode).or_default();
                for sector in std::mem::take(&mut inode.dirty) {
                    if state.random.bool() {
                        inode.keep(sector, state.sector);
                    } else {
                        inode.lost.insert(sector);
                    }
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn write(state: &mut State, inode: u64, bytes: &[u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let end = offset + bytes.len();
        state.take(inode, offset..end)?;
        let size = state.sector;
        let file = state.inodes.entry(inode).or_default();
        if file.cached.len() < end {
            file.cached.resize(end, 0);
        }
        file.cached[offset..end].copy_from_slice(bytes);
        for sector in offset / size..end.div_ceil(size) {
            file.dirty.insert(sector);
            file.lost.remove(&sector);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Sync, 0)?;
        let size = state.sector;
        let file = state.inodes.entry(self.inode).or_default();
        let dirty = std::mem::take(&mut file.dirty);
        file.durable.resize(file.cached.len().max(file.durable.len()), 0);
        dirty.into_iter().for_each(|sector| file.keep(sector, size));
        file.durable.truncate(file.cached.len());
        file.durable_len = file.cached.len();
        Ok(())
    }
}

impl Inode {
    /// A sector reaches the device.
    fn keep(&mut self, sector: usize, size: usize) {
        let range = sector * size..((sector + 1) * size).min(self.cached.len());
        if range.start < range.end {
            if self.durable.len() < range.end {
                self.durable.resize(range.end, 0);
            }
            self.durable[range.clone()].copy_from_slice(&self.cached[range]);
        }
    }
}

impl DiskFile for FailingFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.state().inodes[&self.inode].cached.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (state, _) = self.enter(Call::Read, 0)?;
        let content = &state.inodes[&self.inode].cached;
        let offset = usize::try_from(offset).map_err(io::Error::other)?.min(content.len());
        let read = buffer.len().min(content.len() - offset);
        buffer[..read].copy_from_slice(&content[offset..offset + read]);
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, cut) = self.enter(Call::Write, bytes.len())?;
        Self::write(&mut state, self.inode, &bytes[..cut.unwrap_or(bytes.len())], offset)?;
        if cut.is_some() { Err(eio()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::SetLen, 0)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let file = state.inodes.entry(self.inode).or_default();
        file.cached.resize(len, 0);
        file.pages.retain(|page| page * PAGE < len);
        Ok(())
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        let (mut state, _) = self.enter(Call::Allocate, 0)?;
        let end = usize::try_from(range.end).map_err(io::Error::other)?;
        let start = usize::try_from(range.start).map_err(io::Error::other)?;
        state.take(self.inode, start..end)?;
        let file = state.inodes.entry(self.inode).or_default();
        file.cached.resize(file.cached.len().max(end), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn drop_cache(&self) -> io::Result<()> {
        let state = &mut *self.disk.state();
        let size = state.sector;
        let file = state.inodes.entry(self.inode).or_default();
        for sector in std::mem::take(&mut file.lost) {
            let range = sector * size..((sector + 1) * size).min(file.cached.len());
            if range.start >= range.end {
                continue;
            }
            file.durable.resize(file.durable.len().max(range.end), 0);
            file.cached[range.clone()].copy_from_slice(&file.durable[range]);
        }
        Ok(())
    }
}
