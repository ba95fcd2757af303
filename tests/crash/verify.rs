//! Reads everything back and compares it with the ledger.

use std::time::Duration;

use futures_util::StreamExt;
use minitoolstream_client::{Client, Fetch};

use crate::{
    ledger::Ledger,
    load::move_position,
    message::{SUBJECTS, now},
};

/// Messages of one fetch.
const PAGE: u32 = 10_000;

/// Messages with an id that are sent again in one round.
const REPEATED: usize = 20;

/// Where a read of each subject begins: everything before was read in an earlier round.
pub(crate) type Marks = [u64; SUBJECTS.len()];

/// From the first message of every subject.
pub(crate) const ALL: Marks = [1; SUBJECTS.len()];

/// Compares everything from `marks` on, while others may publish; gives where the next read may begin.
pub(crate) async fn verify(client: &Client, ledger: &Ledger, marks: Marks, rng: &mut fastrand::Rng) -> Marks {
    positions(client, ledger).await;
    ledger.begin_pass();
    let mut next = marks;
    for (subject, mark) in next.iter_mut().enumerate() {
        *mark = read(client, ledger, subject, *mark).await;
    }
    // Last: what was lost would be stored again by it.
    repetitions(client, ledger, rng).await;
    next
}

/// Reads one subject to its end; gives the sequence after the last message (P1, P2, P5).
async fn read(client: &Client, ledger: &Ledger, subject: usize, from: u64) -> u64 {
    let name = SUBJECTS[subject];
    let mut next = from;
    for _ in 0..1000 {
        let begun = now();
        let mut messages = match client.fetch(Fetch::from_sequence(name, next).limit(PAGE)).await {
            Ok(messages) => messages,
            Err(error) => {
                ledger.fault(format!("'{name}' cannot be read from {next} on: {error}"));
                return next;
            }
        };
        let mut count = 0;
        while let Some(message) = messages.next().await {
            match message {
                Ok(message) => {
                    if message.sequence < next {
                        ledger.fault(format!("'{name}': {} came where {next} was due", message.sequence));
                    }
                    ledger.delivered(subject, &message, begun);
                    (next, count) = (message.sequence + 1, count + 1);
                }
                Err(error) => {
                    ledger.fault(format!("a read of '{name}' broke before {next}: {error}"));
                    return next;
                }
            }
        }
        if count < PAGE {
            break;
        }
    }
    ledger.expect_all_read(subject, from, now());
    match client.last_sequence(name).await {
        Ok(last) if last + 1 < next || last < ledger.floor(subject) => {
            ledger.fault(format!("'{name}' ends at {last}, and {} was read or acknowledged", next - 1));
        }
        Ok(_) => {}
        Err(error) => ledger.fault(format!("the last sequence of '{name}' cannot be read: {error}")),
    }
    next
}

/// Every consumer stands where it stood, or further on, and reads from there (P4).
async fn positions(client: &Client, ledger: &Ledger) {
    for (durable, subject) in ledger.consumers() {
        move_position(client, ledger, &durable, subject, 0).await;
        let before = ledger.will_move(&durable, subject, 0);
        let fetch = Fetch::durable(SUBJECTS[subject], &durable).limit(1);
        let first = match client.fetch(fetch).await {
            Ok(mut messages) => messages.next().await,
            Err(error) => Some(Err(error)),
        };
        match first {
            Some(Ok(message)) if message.sequence <= before => {
                let (name, sequence) = (SUBJECTS[subject], message.sequence);
                ledger.fault(format!("'{durable}' of '{name}' was given {sequence} again after {before}"));
            }
            Some(Err(error)) => ledger.fault(format!("'{durable}' cannot fetch '{}': {error}", SUBJECTS[subject])),
            _ => {}
        }
    }
}

/// Messages that were acknowledged are recognised when they are sent again.
async fn repetitions(client: &Client, ledger: &Ledger, rng: &mut fastrand::Rng) {
    let publisher = client.publisher();
    let mut to_send = ledger.some_repeatable(REPEATED, rng);
    for attempt in 1..=REPEATED {
        let mut sent = Vec::new();
        for (spec, sequence) in std::mem::take(&mut to_send) {
            let pending = publisher.send(spec.message()).await;
            sent.push((spec, sequence, pending));
        }
        for (spec, sequence, pending) in sent {
            match pending.await {
                Ok(published) if published.duplicate && published.sequence == sequence => {}
                // What nothing was done for may be asked again.
                Err(error) if error.is_transient() && attempt < REPEATED => to_send.push((spec, sequence)),
                other => {
                    let name = spec.subject();
                    ledger.fault(format!("'{name}': a repetition of {sequence} was answered with {other:?}"));
                }
            }
        }
        if to_send.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
