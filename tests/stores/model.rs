//! Random sequences of operations on a real store and on the [reference](crate::reference): every answer is the same.

use std::time::Duration;

use minitoolstream::{
    Error,
    block::{Block, PayloadKey, ScanLimits},
    store::{Committed, reader},
    types::{Subject, SubjectFilter, Timestamp},
};
use proptest::{prelude::*, sample::Index, test_runner::FileFailurePersistence};

use crate::{
    backend::{Backend, Embedded, Ending},
    operations::{DURABLES, IDS, OPERATIONS, Operation, Planned, SUBJECTS, any_subject, operation},
    reference::{Fate, Reference, Stream, sent},
    rig::Rig,
    words::{self, Home, Parcel, With, draft, durable, subject},
};

fn config() -> ProptestConfig {
    let config = ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: 200, ..config } }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn p8_a_store_answers_as_the_reference_does(operations in prop::collection::vec(operation(), OPERATIONS)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new(Embedded::start().await, Ending::Closed);
            let mut pair = Pair { reference: Reference::default(), floors: [0; SUBJECTS.len()], rig };
            for (step, operation) in operations.into_iter().enumerate() {
                let _at = Step(step, format!("{operation:?}"));
                pair.run(operation).await;
                pair.compare_books().await;
            }
            pair.compare_all().await;
            pair.rig.assert_sound().await;
        });
    }
}

/// Tells where a failed case stood.
struct Step(usize, String);

impl Drop for Step {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at operation {}: {}", self.0, self.1);
        }
    }
}

/// The store and the reference.
struct Pair<B: Backend> {
    reference: Reference,
    /// The highest floor seen in each subject.
    floors: [u64; SUBJECTS.len()],
    rig: Rig<B>,
}

impl<B: Backend> Pair<B> {
    async fn run(&mut self, operation: Operation) {
        let now = self.rig.now;
        match operation {
            Operation::Commit { blocks, acks } => self.commit(blocks, acks).await,
            Operation::Purge { subject, up_to, blocks_max } => {
                let subject = any_subject(subject);
                let up_to = self.any_sequence(&subject, up_to);
                let (messages, blocks) = self.reference.purge(&subject, up_to, blocks_max, now);
                let purged = self.rig.metadata().purge(&subject, up_to, blocks_max, now).await.unwrap();
                assert_eq!(purged.messages, messages);
                let is_left = self.reference.streams.get(&subject).is_some_and(|stream| stream.is_live_up_to(up_to));
                assert!(purged.done || blocks == blocks_max, "a step that was not full was the last");
                assert!(!(purged.done && is_left), "done, and something is left");
            }
            Operation::Expire { blocks_max } => {
                let expired = self.rig.metadata().expire(now, blocks_max).await.unwrap();
                assert_eq!((expired.blocks, expired.messages), self.reference.expire(now, blocks_max));
            }
            Operation::ForgetIds { limit } => self.forget_ids(limit).await,
            Operation::Pass { millis } => self.rig.pass(millis),
            Operation::Seal => {
                if let Some(key) = self.rig.seal().await {
                    self.reference.seal(key, now);
                }
            }
            Operation::Reclaim { age } => self.reclaim(Timestamp(now.0 - age)).await,
            Operation::Scan { subject, from, blocks_max, bytes_max } => {
                let subject = any_subject(subject);
                let from = self.any_sequence(&subject, from);
                self.compare_scan(&subject, from, blocks_max, bytes_max).await;
            }
            Operation::Read { subject, from, limit } => {
                let subject = any_subject(subject);
                let from = self.any_sequence(&subject, from);
                self.compare_read(&subject, from, limit).await;
            }
            Operation::Reopen { ending } => {
                self.rig.reopen(ending).await;
                self.reference.reopen();
            }
        }
    }

    /// A sequence from 0 to a little beyond the end.
    fn any_sequence(&self, subject: &Subject, index: Index) -> u64 {
        index.index(usize::try_from(self.reference.last(subject)).unwrap() + 4) as u64
    }

    async fn commit(&mut self, blocks: Vec<(Index, Home, Vec<Planned>)>, acks: Vec<(Index, Index, Index)>) {
        let now = self.rig.now;
        let mut parcels: Vec<_> = blocks.into_iter().map(|block| self.parcel(block)).collect();
        let acks: Vec<_> = acks.into_iter().map(|ack| self.ack_of(ack)).collect();
        // What is refused is taken out, and the rest must pass.
        for _ in 0..2 {
            let refused = self.reference.judge(&parcels, now);
            let (blocks, placements) = self.rig.place(&parcels).await;
            for key in self.rig.take_opened() {
                self.reference.open(key);
            }
            let wishes = acks.iter().map(|(of, on, at)| words::ack(of, on.as_str(), *at)).collect();
            match self.rig.commit_placed(blocks.clone(), placements.clone(), wishes).await.unwrap() {
                Committed::Refused(found) => {
                    assert!(!refused.is_empty());
                    assert_eq!(found, refused);
                    for (at, _) in refused.into_iter().rev() {
                        parcels[at.block].drafts.remove(at.record);
                    }
                    parcels.retain(|parcel| !parcel.drafts.is_empty());
                }
                Committed::Stored { firsts, positions, .. } => {
                    assert_eq!(refused, []);
                    let expected: Vec<_> = acks.iter().map(|(of, on, at)| self.reference.ack(of, on, *at)).collect();
                    assert_eq!(firsts, self.reference.store(&parcels, &blocks, &placements, now));
                    for (position, expected) in positions.into_iter().zip(expected) {
                        match expected {
                            Some(expected) => assert_eq!(position, Ok(expected)),
                            None => assert!(matches!(position, Err(Error::Invalid(_))), "{position:?}"),
                        }
                    }
                    return;
                }
            }
        }
        panic!("refused again without what was refused");
    }

    fn parcel(&self, (name, home, planned): (Index, Home, Vec<Planned>)) -> Parcel {
        let name = *name.get(&SUBJECTS[..3]);
        let drafts = planned.into_iter().enumerate().map(|(at, planned)| {
            let mut draft = draft(name, &format!("{at}").repeat(planned.len));
            draft.headers.truncate(planned.len % 2);
            draft.expires = planned.ttl.map(|ttl| self.rig.now.after(Duration::from_millis(ttl)));
            draft.expected_last = planned.expected.map(|more| self.reference.last(&draft.subject) + more);
            match planned.id {
                Some(id) => draft.id(id.get::<&str>(&IDS)),
                None => draft,
            }
        });
        Parcel { home, drafts: drafts.collect() }
    }

    /// At most what a subject had before the group, or far beyond what it has after it.
    fn ack_of(&self, (of, on, at): (Index, Index, Index)) -> (&'static str, Subject, u64) {
        let on = any_subject(on);
        let last = self.reference.last(&on);
        let sequence = at.index(usize::try_from(last).unwrap() + 2) as u64;
        (*of.get(&DURABLES), on, if sequence > last { last + 1000 } else { sequence })
    }

    async fn forget_ids(&mut self, limit: usize) {
        let now = self.rig.now;
        let (at_least, at_most) = self.reference.forget_ids(now);
        let mut forgotten = 0;
        for _ in 0..=at_most {
            let step = self.rig.metadata().forget_ids(now, limit).await.unwrap();
            assert!(step <= limit);
            forgotten += step;
            if step < limit {
                break;
            }
        }
        assert!((at_least..=at_most).contains(&forgotten), "{forgotten} of {at_least} to {at_most}");
    }

    async fn reclaim(&mut self, before: Timestamp) {
        let garbage = self.rig.metadata().garbage(before, usize::MAX).await.unwrap();
        assert_eq!(garbage, self.reference.reclaim(before));
        for removed in &garbage {
            self.rig.payload().delete(removed.key).await.unwrap();
        }
        self.rig.metadata().forget_garbage(&garbage).await.unwrap();
    }

    async fn compare_scan(&self, subject: &Subject, from: u64, blocks_max: usize, bytes_max: u64) {
        let scan = self.rig.metadata().blocks(subject, from, blocks_max, bytes_max).await.unwrap();
        let mut expected = Vec::new();
        let mut bytes = 0;
        if let Some(stream) = self.reference.streams.get(subject) {
            for block in stream.blocks.iter().filter(|block| block.end() > from).take(blocks_max) {
                bytes += block.bytes();
                if !expected.is_empty() && bytes > bytes_max {
                    break;
                }
                expected.push(block.clone());
            }
            for block in &scan.blocks {
                for sequence in block.first..block.end() {
                    let is_live = stream.fate(sequence) == Fate::Live;
                    assert_eq!(sequence >= scan.floor, is_live, "{sequence}, the floor is {}", scan.floor);
                }
            }
        }
        assert_eq!(scan.blocks, expected);
        assert_eq!(scan.last, self.reference.last(subject));
    }

    /// Blocks of several subjects, in the order in which they were stored, whatever the pieces.
    async fn compare_stream(&self, filter: &SubjectFilter) {
        let streams = self.reference.streams.iter().filter(|(name, _)| filter.matches(name));
        let mut expected: Vec<_> = streams.flat_map(|(_, stream)| stream.blocks.clone()).collect();
        expected.sort_by_key(|block| block.stream_first);
        let mut limits = ScanLimits { blocks: 3, bytes: 5000, rows: 5 };
        for from in (1..=self.reference.stored() + 2).step_by(7) {
            let (mut found, mut next) = (Vec::new(), from);
            loop {
                let scan = self.rig.metadata().stream(filter, next, limits).await.unwrap();
                assert!(scan.blocks.len() <= limits.blocks);
                found.extend(scan.blocks.into_iter().map(|located| located.block));
                assert!(scan.is_end || scan.next > next, "the scan stands still at {next}");
                next = scan.next;
                if scan.is_end {
                    break;
                }
            }
            assert_eq!(next, from.max(self.reference.stored() + 1));
            assert!(found.iter().eq(expected.iter().filter(|block| block.stream_end() > from)), "from {from} on");
            limits = ScanLimits { blocks: 1 + limits.blocks % 4, bytes: limits.bytes / 2, rows: 1 + limits.rows % 7 };
        }
    }

    /// Reads to the end: what comes is what was sent, byte for byte.
    async fn compare_read(&self, subject: &Subject, from: u64, limit: usize) {
        let none = Stream::default();
        let stream = self.reference.streams.get(subject).unwrap_or(&none);
        let mut expected = stream.readable(self.rig.now).into_iter().filter(|(sequence, _)| *sequence >= from);
        let mut next = from;
        for _ in 0..=stream.last() + 1 {
            let page = reader::read(self.rig.stores(), subject, next, limit, self.rig.now).await.unwrap();
            assert_eq!(page.damage, None);
            assert!(page.messages.len() <= limit);
            for message in &page.messages {
                let (sequence, expected) = expected.next().unwrap();
                assert_eq!(message.sequence, sequence);
                let data = self.rig.data(message).await;
                assert_eq!((&data, &message.record.headers), sent(expected));
                assert_eq!(message.record.created, expected.created);
                assert_eq!(message.record.expires, expected.draft.expires);
                assert!(sequence < page.next);
            }
            if page.is_end {
                assert!(expected.next().is_none(), "the reader ended too early");
                return;
            }
            assert!(page.next > next, "the reader stands still at {next}");
            next = page.next;
        }
        panic!("the reader does not come to an end");
    }

    /// The books of every subject, and P8.
    async fn compare_books(&mut self) {
        let rows = self.rig.subjects().await;
        assert_eq!(rows.len(), self.reference.streams.len());
        for (row, (name, stream)) in rows.iter().zip(&self.reference.streams) {
            assert_eq!((&row.subject, row.last), (name, stream.last()));
            let counts = (row.live(), row.expired, row.purged);
            let fates = [Fate::Live, Fate::Expired, Fate::Purged].map(|fate| stream.count(fate));
            assert_eq!(counts, fates.into(), "{name}");
            assert_eq!(row.last, fates.iter().sum::<u64>(), "P8 of {name}");
            assert_eq!(row.bytes, stream.blocks.iter().map(Block::bytes).sum::<u64>());
            assert_eq!(Some(row.updated), stream.messages.iter().map(|message| message.created).max());
            let floor = &mut self.floors[SUBJECTS.iter().position(|known| *known == name.as_str()).unwrap()];
            assert!(row.floor >= *floor, "the floor of {name} went back from {floor} to {}", row.floor);
            *floor = row.floor;
        }
        assert_eq!(self.rig.payload_rows().await, self.reference.payloads);
    }

    async fn compare_all(&mut self) {
        for pattern in [">", "a.*", "a"] {
            self.compare_stream(&SubjectFilter::parse("filter", pattern).unwrap()).await;
        }
        for name in SUBJECTS.map(subject) {
            self.compare_scan(&name, 1, usize::MAX, u64::MAX).await;
            self.compare_read(&name, 1, 5).await;
            for of in DURABLES {
                let position = self.rig.metadata().position(&durable(of), &name).await.unwrap();
                assert_eq!(position, self.reference.position(of, &name));
            }
        }
        let positions: Vec<_> =
            self.rig.positions().await.into_iter().map(|(of, on, at)| ((of.to_string(), on), at)).collect();
        assert_eq!(positions, self.reference.positions.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(self.rig.garbage().await, self.reference.garbage);
        let mut keys = self.rig.payload().keys().await.unwrap();
        keys.sort_by_key(|key| key.number());
        let known: Vec<PayloadKey> = keys.iter().copied().filter(|key| self.is_known(*key)).collect();
        assert_eq!(keys, known, "no file is left without a row");
        let filter = SubjectFilter::parse("filter", "a.*").unwrap();
        let rows = self.rig.metadata().subjects(&filter, "", 10).await.unwrap();
        let expected = self.reference.streams.keys().filter(|name| filter.matches(name));
        assert!(rows.iter().map(|row| &row.subject).eq(expected));
    }

    fn is_known(&self, key: PayloadKey) -> bool {
        self.reference.payloads.iter().any(|row| row.key == key)
            || self.reference.garbage.iter().any(|garbage| garbage.key == key)
    }
}
