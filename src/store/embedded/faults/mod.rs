//! The embedded stores on a disk that fails: every call of the file system, one at a time and at random, then a crash, a
//! power loss or a stop, and a look at what is there.

mod disk;
mod files;
mod hostile;
mod load;
mod rows;
mod sweep;

use std::cell::Cell;

thread_local! {
    static RUNS_INLINE: Cell<bool> = const { Cell::new(false) };
}

/// Whether file work of this thread runs where it is asked for: a disk in memory does not block, and a case takes half
/// the time.
pub(super) fn runs_inline() -> bool {
    RUNS_INLINE.get()
}

fn run_inline() {
    RUNS_INLINE.set(true);
}
