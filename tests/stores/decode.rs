//! Whatever bytes a row or a body holds, reading them gives an answer, not a panic.

use bytes::{Bytes, BytesMut};
use minitoolstream::block::{Block, Placement, record};
use proptest::prelude::*;

use crate::words::{With, draft};

/// Bytes that look like a row up to their tag, and then like nothing.
fn row() -> impl Strategy<Value = Vec<u8>> {
    (0..3_u8, prop::collection::vec(any::<u8>(), 24), 0..4_u8, prop::collection::vec(any::<u8>(), 0..120)).prop_map(
        |(version, fixed, tag, rest)| {
            let mut row = vec![version];
            row.extend(fixed);
            row.push(tag);
            row.extend(rest);
            row
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_a_block_or_none(first in any::<u64>(), bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), row()]) {
        let bytes = Bytes::from(bytes);
        if let Some(block) = Block::decode(first, bytes.clone()) {
            prop_assert_eq!(block.first, first);
            let version = bytes[0];
            prop_assert_eq!(version == 1, block.stream_first == 0 && block.encode() != bytes);
            prop_assert_eq!(Block::decode(first, block.encode()), Some(block.clone()));
            // Rows of the first version lack the eight bytes of the stream sequence.
            let mut again = block.encode().to_vec();
            if version == 1 {
                again[0] = 1;
                again.drain(25..33);
            }
            prop_assert_eq!(again, bytes, "a row that is understood is understood whole");
        }
    }

    #[test]
    fn a_large_count_of_parts_is_refused(parts in any::<u32>(), rest in 0_usize..64) {
        let mut bytes = vec![0; 26 + 48];
        (bytes[0], bytes[25]) = (1, 2);
        bytes.extend(parts.to_le_bytes());
        bytes.extend(vec![0; rest]);
        let block = Block::decode(1, bytes.into());
        prop_assert_eq!(block.is_some(), parts as usize <= rest / 4);
        if let Some(Block { placement: Placement::Object { part_crcs, record, .. }, .. }) = block {
            prop_assert_eq!((part_crcs.len(), record.len()), (parts as usize, rest - 4 * parts as usize));
        }
    }

    #[test]
    fn any_body_is_records_and_at_most_one_error(bytes in prop::collection::vec(any::<u8>(), 0..400), skip in 0_u64..5) {
        let mut records = record::decode(bytes.into());
        let skipped = records.skip_records(skip);
        let read: Vec<_> = records.take(1000).collect();
        let errors = read.iter().filter(|record| record.is_err()).count();
        prop_assert!(errors <= 1 && read.iter().rev().skip(1).all(Result::is_ok));
        prop_assert!(skipped.is_ok() || read.len() <= 400 / record::PREFIX + 1);
    }

    #[test]
    fn a_damaged_body_does_not_panic(
        texts in prop::collection::vec("[a-z]{0,20}", 1..6),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = BytesMut::new();
        for text in &texts {
            record::encode(&draft("a", text).expires(7), true, &mut body);
        }
        for (at, flip) in flips {
            let at = at.index(body.len());
            body[at] ^= flip;
        }
        body.truncate(cut.index(body.len()) + 1);
        prop_assert!(record::decode(body.freeze()).take(1000).count() <= 1000);
    }
}
