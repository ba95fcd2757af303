//! P6: memory does not grow with objects.

use bytes::Bytes;
use minitoolstream::{
    block::PayloadKey,
    store::{PayloadStore, Synced},
};
use sha2::{Digest, Sha256};

use crate::rig::Rig;

const PIECE: usize = 1 << 20;
const PIECES: usize = 64;

/// What an upload may add: a part that is gathered and three under way, of 8 MiB each, and buffers of the network.
const GROWTH_MAX: u64 = 64 << 20;

/// The most resident memory that this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

fn piece(index: usize) -> Bytes {
    (0..PIECE as u64 / 8).flat_map(|at| (at * 0x9E37_79B9 + index as u64).to_le_bytes()).collect()
}

#[tokio::test]
async fn p6_a_large_object_passes_in_little_memory() {
    let mut rig = Rig::start();
    rig.settings.part_size = 8 << 20;
    rig.settings.timeout = std::time::Duration::from_secs(10);
    let payload = rig.connect_directly().await;
    let (before, mut sent, mut received) = (peak(), Sha256::new(), Sha256::new());
    let mut writer = payload.write_object(1, &Synced::default()).await.unwrap();
    for index in 0..PIECES {
        let piece = piece(index);
        sent.update(&piece);
        writer.write(vec![piece]).await.unwrap();
    }
    writer.finish().await.unwrap();
    for index in 0..PIECES {
        let read = payload.read(PayloadKey::Object(1), (index * PIECE) as u64, PIECE as u64).await.unwrap();
        received.update(&read);
    }
    assert_eq!(sent.finalize(), received.finalize());
    let growth = peak() - before;
    assert!(growth < GROWTH_MAX, "64 MiB took {growth} bytes of memory");
    assert_eq!((rig.count("upload_part", "200"), rig.count("put", "200")), (8, 0));
}
