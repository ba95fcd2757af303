//! Plays operations on a store and writes down every answer, so that two stores can be compared.

use std::{sync::Arc, time::Duration};

use minitoolstream::{
    block::ScanLimits,
    consumer::{How, Patch, Session, Settle, Start, Step, Want},
    store::{Committed, ConsumerChange, ConsumerView, Group, Move, NewUpload, Saved, SubjectRow, UploadState},
    types::{SubjectFilter, Timestamp, UploadId},
};

use crate::{
    backend::Backend,
    operations::{DURABLES, SUBJECTS},
    plays::{Answer, CONSUMERS, Change, Message, PATTERNS, Play, UPLOADS, Work},
    rig::{Rig, WINDOW},
    words::{self, Parcel, With, draft, durable, filter, subject},
    workers::{consumer, on},
};

/// See the [module](self).
pub(crate) struct Player<B: Backend> {
    pub(crate) rig: Rig<B>,
    /// Deliveries so far: consumer, session, stream sequence, attempt.
    given: Vec<(usize, u64, u64, u32)>,
}

impl<B: Backend> Player<B> {
    pub(crate) fn new(rig: Rig<B>) -> Self {
        Self { rig, given: Vec::new() }
    }

    /// Plays one operation; gives the answer as text.
    pub(crate) async fn play(&mut self, play: &Play) -> String {
        let now = self.rig.now;
        match play {
            Play::Commit { parcels, acks, work } => self.commit(parcels, acks, work.as_ref()).await,
            Play::Make { consumer, pattern, start, is_durable } => {
                let patch = Patch {
                    start: Some(self.start(*pattern, *start)),
                    max_deliver: Some(2),
                    max_ack_pending: Some(6),
                    back_off: Some(vec![Duration::from_millis(10)]),
                    ack_wait: Some(Duration::from_millis(30)),
                    ..on(PATTERNS[*pattern])
                };
                format!("{:?}", self.rig.make(CONSUMERS[*consumer], *is_durable, patch).await.map(shown))
            }
            Play::Change { consumer, change } => {
                let change = match change {
                    Change::Pause(paused) => ConsumerChange::Pause(*paused),
                    Change::Reset => ConsumerChange::Reset(None),
                    Change::Update(max_ack_pending) => {
                        ConsumerChange::Update(Patch { max_ack_pending: Some(*max_ack_pending), ..Patch::default() })
                    }
                    Change::Delete => ConsumerChange::Delete,
                };
                format!("{:?}", self.rig.change(CONSUMERS[*consumer], change).await.map(shown))
            }
            Play::Deliver { limit } => {
                let mut due = self.rig.metadata().deliver_due(now, *limit).await.unwrap();
                due.raised.sort();
                format!("{due:?}")
            }
            Play::Redrive { letter, to } => {
                let from = subject(&format!("$dlq.{}", CONSUMERS[letter % CONSUMERS.len()]));
                let sequence = 1 + (letter / CONSUMERS.len()) as u64;
                let message = Move { from, sequence, to: subject(SUBJECTS[*to]), expires: None };
                format!("{:?}", self.rig.metadata().move_message(message, now).await)
            }
            Play::Begin { upload, header } => {
                let header = header.to_string().into();
                let deadline = Timestamp(now.0 + 50);
                let new = NewUpload { id: id(*upload), header, now, deadline, uploads_max: 2 };
                format!("{:?}", self.rig.metadata().begin_upload(new).await)
            }
            Play::Save { upload, epoch, offset } => {
                let saved = Saved { offset: *offset, tally: "t".into(), receipt: "r".into() };
                let deadline = Timestamp(now.0 + 60);
                format!("{:?}", self.rig.metadata().save_upload(&id(*upload), *epoch, saved, deadline).await)
            }
            Play::Abandon { upload, epoch } => {
                format!("{:?}", self.rig.metadata().abandon_upload(&id(*upload), *epoch, now).await)
            }
            Play::ExpireUploads { limit } => {
                format!("{:?}", self.rig.metadata().expire_uploads(now, *limit).await)
            }
            Play::Purge { subject: of, up_to, blocks_max } => {
                format!("{:?}", self.rig.metadata().purge(&subject(SUBJECTS[*of]), *up_to, *blocks_max, now).await)
            }
            Play::Expire { blocks_max } => format!("{:?}", self.rig.metadata().expire(now, *blocks_max).await),
            Play::ForgetIds => {
                // How many steps it takes is the store's business.
                while self.rig.metadata().forget_ids(now, 3).await.unwrap() == 3 {}
                String::new()
            }
            Play::Pass { millis } => {
                self.rig.pass(*millis);
                String::new()
            }
            Play::Seal => format!("{:?}", self.rig.seal().await),
            Play::Reclaim { age } => {
                let garbage = self.rig.metadata().garbage(Timestamp(now.0 - age), usize::MAX).await.unwrap();
                for removed in &garbage {
                    self.rig.payload().delete(removed.key).await.unwrap();
                }
                self.rig.metadata().forget_garbage(&garbage).await.unwrap();
                format!("{garbage:?}")
            }
            Play::Reopen => {
                self.rig.pause().await;
                String::new()
            }
        }
    }

    async fn commit(
        &mut self,
        parcels: &[(words::Home, Vec<Message>)],
        acks: &[(usize, usize, u64)],
        work: Option<&Work>,
    ) -> String {
        let now = self.rig.now;
        let parcels: Vec<_> = parcels.iter().map(|(home, messages)| self.parcel(*home, messages)).collect();
        let (blocks, placements) = self.rig.place(&parcels).await;
        let acks = acks.iter().map(|(of, on, at)| words::ack(DURABLES[*of], SUBJECTS[*on], *at)).collect();
        let steps = work.map(|work| Arc::new(self.step(work)));
        let steps: Vec<_> = steps.into_iter().collect();
        let group = Group { blocks, placements, acks, steps, now, dedup_window: WINDOW };
        match self.rig.metadata().commit(group).await.unwrap() {
            Committed::Stored { firsts, positions, steps, mut raised } => {
                if let (Some((of, session, ..)), Some(Ok(stepped))) = (work, steps.first()) {
                    let given = stepped.runs.iter().flat_map(|run| &run.given);
                    self.given.extend(given.map(|given| (*of, *session, given.at, given.attempt)));
                }
                raised.sort();
                format!("{firsts:?} {positions:?} {steps:?} {raised:?}")
            }
            refused @ Committed::Refused(_) => format!("{refused:?}"),
        }
    }

    fn parcel(&self, home: words::Home, messages: &[Message]) -> Parcel {
        let now = self.rig.now;
        let drafts = messages.iter().map(|message| {
            let mut draft = draft(SUBJECTS[messages[0].subject], &"x".repeat(message.len));
            draft.expires = message.ttl.map(|ttl| now.after(Duration::from_millis(ttl)));
            draft.expected_last = message.expected;
            draft.deliver_at = messages[0].wait.map(|wait| now.after(Duration::from_millis(wait)));
            draft.upload = message.upload.map(id);
            match message.id {
                Some(id) => draft.id(&id.to_string()),
                None => draft,
            }
        });
        // What waits for its time, and what is large, stands alone.
        let most = if home == words::Home::Object || messages[0].wait.is_some() { 1 } else { messages.len() };
        Parcel { home, drafts: drafts.take(most).collect() }
    }

    fn step(&self, (of, session, answers, messages, close): &Work) -> Step {
        let now = self.rig.now;
        let settle = |(which, answer): &(usize, Answer)| {
            let (_, _, at, attempt) = *self.given.get(which % self.given.len().max(1))?;
            let how = match answer {
                Answer::Ack => How::Ack,
                Answer::Nak => How::Nak(None),
                Answer::Extend => How::Extend,
                Answer::Terminate => How::Terminate("why".into()),
                Answer::Release => How::Release,
                Answer::Gone => How::Gone,
                Answer::Damaged => How::Damaged("what".into()),
            };
            Some(Settle { at, attempt, received: now, how })
        };
        Step {
            consumer: consumer(CONSUMERS[*of]),
            session: Session(*session),
            settles: answers.iter().filter_map(settle).collect(),
            // A worker that leaves takes nothing.
            want: Want {
                messages: if *close { 0 } else { *messages },
                bytes: 5000,
                message_bytes: u64::MAX,
                first_bytes: u64::MAX,
            },
            close: *close,
            now,
        }
    }

    fn start(&self, pattern: usize, start: u64) -> Start {
        match start % 5 {
            0 => Start::All,
            1 => Start::New,
            2 if PATTERNS[pattern] == "a" => Start::Sequence(1 + start / 5),
            2 | 3 => Start::StreamSequence(start / 5),
            _ => Start::Time(self.rig.now.0.saturating_sub(start)),
        }
    }

    /// Everything that the store tells of itself.
    pub(crate) async fn dump(&self) -> Vec<String> {
        let metadata = self.rig.metadata();
        let mut lines = Vec::new();
        for row in self.rig.subjects().await {
            let scan = metadata.blocks(&row.subject, 1, usize::MAX, u64::MAX).await.unwrap();
            // How soon the floor follows is the store's business where blocks go from the middle.
            let floor = if row.subject.is_reserved() { 0 } else { row.floor };
            lines.push(format!("{:?}", SubjectRow { floor, ..row }));
            lines.push(format!("{:?}", scan.blocks));
        }
        for pattern in ["a", "a.*", ">", "$scheduled"] {
            for from in [1, 4, 9] {
                let limits = ScanLimits { blocks: 7, bytes: 20_000, rows: 11 };
                let mut scan = metadata.stream(&filter(pattern), from, limits).await.unwrap();
                let is_reserved = pattern.starts_with('$');
                scan.blocks.iter_mut().filter(|_| is_reserved).for_each(|located| located.floor = 0);
                lines.push(format!("{pattern} {from} {scan:?}"));
            }
            for ago in [0, 20, 60] {
                let at = metadata.stream_at(&filter(pattern), Timestamp(self.rig.now.0 - ago)).await;
                lines.push(format!("{pattern} -{ago} {at:?}"));
            }
        }
        let page = metadata.subjects(&SubjectFilter::all(), "a", 2).await.unwrap();
        lines.push(format!("{:?}", page.iter().map(|row| &row.subject).collect::<Vec<_>>()));
        lines.push(format!("{:?}", self.rig.positions().await));
        for of in DURABLES {
            lines.push(format!("{:?}", metadata.position(&durable(of), &subject("a")).await));
        }
        lines.push(format!("{:?} {:?}", self.rig.payload_rows().await, self.rig.garbage().await));
        lines.push(format!("{:?}", metadata.uploads("", usize::MAX).await));
        let open = |upload: &minitoolstream::store::Upload| matches!(upload.state, UploadState::Open { .. });
        for upload in 0..UPLOADS.len() {
            lines.push(format!("{:?}", metadata.upload(&id(upload)).await.unwrap().as_ref().map(open)));
        }
        let views = metadata.consumers("", usize::MAX).await.unwrap();
        lines.extend(views.into_iter().map(|view| format!("{:?}", shown(view))));
        for name in CONSUMERS {
            lines.push(format!("{:?}", self.rig.view(name).await.map(shown)));
        }
        lines.push(format!("{:?}", metadata.next_due().await));
        lines
    }
}

/// How far a consumer looked in vain is not always stored, and depends on who remembers it.
fn shown(view: ConsumerView) -> ConsumerView {
    ConsumerView { cursor: 0, ack_floor: 0, ..view }
}

fn id(upload: usize) -> UploadId {
    UploadId::parse("upload_id", UPLOADS[upload]).unwrap()
}
