use bytes::Bytes;

/// Alignment of everything that direct I/O writes: the largest sector size in use.
pub(super) const ALIGN: usize = 4096;

/// Memory that begins on a boundary, as direct I/O asks.
#[derive(Default)]
pub(super) struct AlignedBuffer(Vec<u8>);

impl AlignedBuffer {
    /// Room for `len` bytes, padded to a boundary with zeros. What it held before is gone.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        let padded = len.next_multiple_of(ALIGN);
        if self.0.len() < padded + ALIGN {
            self.0 = vec![0; (padded + ALIGN).next_power_of_two()];
        }
        // In safe code the allocation cannot be aligned, but a part of it always is.
        let start = self.0.as_ptr().align_offset(ALIGN).min(ALIGN);
        let room = &mut self.0[start..start + padded];
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
}
