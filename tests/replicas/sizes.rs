//! P3: what is acknowledged can be read at once by any other broker, at every size.

use minitoolstream_client::{Client, NewMessage, Result};
use sha2::{Digest, Sha256};

use crate::{
    ledger::data,
    site::{Site, ended, persist},
};

const SUBJECT: &str = "sizes";
/// Around what is kept in a row, in a segment, as an object, in parts of one.
const SIZES: [usize; 10] =
    [0, 1, 64 << 10, (64 << 10) + 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 4 << 20, (5 << 20) + 1, 64 << 20];
/// Larger ones are uploaded in pieces.
const AT_ONCE_MAX: usize = 4 << 20;

/// A message that was published: its sequence, size and digest.
type Stored = (u64, usize, [u8; 32]);

async fn publish(client: &Client, id: u64, size: usize, in_pieces: bool) -> Stored {
    let data = data(id, size).slice(..size);
    let digest = Sha256::digest(&data).into();
    let message = || NewMessage::new(SUBJECT, "").message_id(id.to_string());
    let sequence = if in_pieces || size > AT_ONCE_MAX {
        let name = format!("upload-{id}");
        let upload = || client.upload(message()).id(&name).sha256(digest).from_bytes(data.clone());
        persist(upload).await.unwrap().sequence
    } else {
        let publisher = client.publisher();
        persist(|| publisher.publish(message().data(data.clone()))).await.unwrap().sequence
    };
    (sequence, size, digest)
}

async fn digest_of(client: &Client, sequence: u64) -> Result<(usize, [u8; 32])> {
    let mut reader = client.open((SUBJECT, sequence)).await?;
    let (mut size, mut digest) = (0, Sha256::new());
    while let Some(piece) = reader.piece().await? {
        size += piece.len();
        digest.update(&piece);
    }
    Ok((size, digest.finalize().into()))
}

async fn assert_readable(client: &Client, (sequence, size, digest): Stored) {
    let found = persist(|| digest_of(client, sequence)).await;
    assert!(found.as_ref().is_ok_and(|found| *found == (size, digest)), "{sequence} of {size} bytes: {found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p3_every_size_arrives_whoever_fails() {
    let site = Site::start(&[]).await;
    let tasks: Vec<_> = (0..2_usize)
        .map(|number| {
            let (up, down, trouble) =
                (site.ingress(number), [site.egress(number), site.egress(number + 1)], site.trouble());
            tokio::spawn(async move {
                let mut stored = Vec::new();
                // Each size at least once.
                for count in 0.. {
                    if count >= SIZES.len() && !trouble() {
                        break;
                    }
                    let (id, size) = ((number << 32 | count) as u64, SIZES[(count + number) % SIZES.len()]);
                    let message = publish(&up, id, size, (count / SIZES.len() + number).is_multiple_of(2)).await;
                    assert_readable(&down[count % 2], message).await;
                    stored.push(message);
                }
                stored
            })
        })
        .collect();
    let calm = site.calm().await;
    let mut stored = Vec::new();
    for task in tasks {
        stored.extend(ended("all sizes pass", task).await);
    }
    stored.sort_unstable();
    eprintln!("{} messages", stored.len());
    assert!(stored.iter().map(|(sequence, ..)| *sequence).eq(1..=stored.len() as u64), "one message for each");
    for egress in &calm.cluster.egress {
        let client = egress.client();
        for message in &stored {
            assert_readable(&client, *message).await;
        }
    }
    calm.end().await;
}
