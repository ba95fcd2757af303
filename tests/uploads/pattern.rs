//! Data that can be made again anywhere, so that nobody has to hold it.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use minitoolstream::block::object::Tally;

/// Bytes that do not repeat in a shorter period.
const PERIOD: usize = 1 << 20;

static NOISE: LazyLock<Bytes> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(42);
    std::iter::repeat_with(|| random.u8(..)).take(2 * PERIOD).collect()
});

/// Data of a size; each seed has its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    pub(crate) seed: usize,
    pub(crate) size: u64,
}

impl Pattern {
    pub(crate) fn new(seed: usize, size: u64) -> Self {
        Self { seed, size }
    }

    /// A piece of it: up to 1 MiB from an offset on.
    pub(crate) fn piece(self, offset: u64) -> Bytes {
        let period = PERIOD as u64;
        let (index, within) = (offset / period, usize::try_from(offset % period).unwrap());
        let len = usize::try_from((self.size - offset).min(period - within as u64)).unwrap();
        // Each period begins elsewhere in the noise.
        let start = (usize::try_from(index).unwrap() * 7919 + self.seed * 104_729) % PERIOD;
        NOISE.slice(start + within..start + within + len)
    }

    /// Its pieces from an offset on.
    pub(crate) fn pieces(self, offset: u64) -> impl Iterator<Item = Bytes> + Send {
        let mut at = offset;
        std::iter::from_fn(move || {
            (at < self.size).then(|| {
                let piece = self.piece(at);
                at += piece.len() as u64;
                piece
            })
        })
    }

    /// All of it: for small ones.
    pub(crate) fn whole(self) -> Bytes {
        let mut whole = BytesMut::new();
        self.pieces(0).for_each(|piece| whole.extend_from_slice(&piece));
        whole.freeze()
    }

    pub(crate) fn sha256(self) -> [u8; 32] {
        let mut tally = Tally::default();
        self.pieces(0).for_each(|piece| tally.update(&piece));
        tally.sha256()
    }
}
