//! Memory for direct I/O, which wants addresses, offsets and lengths on boundaries. Buffers are used again: on a virtual
//! machine the first touch of fresh memory costs more than the copy into it.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Alignment of everything that direct I/O reads and writes: the largest sector size in use.
pub(super) const ALIGN: usize = 4096;

/// Buffers up to this size are kept for the next one who needs one.
const KEPT_BYTES_MAX: usize = (1 << 20) + 2 * ALIGN;

/// So many of them.
const KEPT_MAX: usize = 16;

static KEPT: Mutex<Vec<AlignedBuffer>> = Mutex::new(Vec::new());

/// Memory that begins on a boundary, as direct I/O asks.
#[derive(Debug, Default)]
pub(super) struct AlignedBuffer(Vec<u8>);

impl AlignedBuffer {
    /// A buffer that was used before, if there is one.
    pub(super) fn take() -> Self {
        KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Gives it to the next one who needs one.
    pub(super) fn give_back(self) {
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.len() <= KEPT_BYTES_MAX && kept.len() < KEPT_MAX {
            kept.push(self);
        }
    }

    /// Room for `len` bytes, padded to a boundary. What it holds is what was there before.
    fn padded(&mut self, len: usize) -> &mut [u8] {
        let padded = len.next_multiple_of(ALIGN);
        if self.0.len() < padded + ALIGN {
            self.0 = vec![0; padded + ALIGN];
        }
        let start = self.start();
        &mut self.0[start..start + padded]
    }

    /// In safe code the allocation cannot be aligned, but a part of it always is.
    fn start(&self) -> usize {
        self.0.as_ptr().align_offset(ALIGN).min(ALIGN)
    }

    /// Room for `len` bytes, padded to a boundary with zeros.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        let room = self.padded(len);
        room[len..].fill(0);
        room
    }

    /// Copies bodies together and pads them; gives the padded bytes and the unpadded length.
    pub(super) fn gather(&mut self, bodies: &[Bytes]) -> (&[u8], usize) {
        let len: usize = bodies.iter().map(Bytes::len).sum();
        let room = self.room(len);
        let mut at = 0;
        for body in bodies {
            room[at..at + body.len()].copy_from_slice(body);
            at += body.len();
        }
        (room, len)
    }

    /// Lets `fill` read into room for `len` bytes, and gives those that it has read, at most `len`, without a copy. The
    /// memory is used again once they are dropped.
    pub(super) fn read<E>(mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<Bytes, E> {
        let read = match fill(self.padded(len)) {
            Ok(read) => read,
            Err(error) => {
                self.give_back();
                return Err(error);
            }
        };
        let start = self.start();
        Ok(Bytes::from_owner(Filled { buffer: Some(self), start, len: read.min(len) }))
    }
}

/// What was read into a buffer.
struct Filled {
    buffer: Option<AlignedBuffer>,
    start: usize,
    len: usize,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer.0[self.start..self.start + self.len])
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            buffer.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_aligned_padded_and_clean() {
        let mut buffer = AlignedBuffer::default();
        buffer.room(10_000).fill(7);
        let (bytes, len) = buffer.gather(&[Bytes::from_static(b"ab"), Bytes::from_static(b"c")]);
        assert_eq!((bytes.len(), len, &bytes[..4]), (ALIGN, 3, b"abc\0".as_slice()));
        assert!(bytes[3..].iter().all(|byte| *byte == 0));
        assert_eq!(bytes.as_ptr().align_offset(ALIGN), 0);
    }

    #[test]
    fn what_was_read_is_seen_and_no_more() {
        let read = AlignedBuffer::default().read(5000, |room| {
            assert_eq!((room.len(), room.as_ptr().align_offset(ALIGN)), (2 * ALIGN, 0));
            room[..6000].fill(3);
            Ok::<_, ()>(6000)
        });
        assert_eq!(read, Ok(Bytes::from(vec![3; 5000])));
        assert_eq!(AlignedBuffer::take().read(10, |_| Err::<usize, _>("broken")), Err("broken"));
    }
}
