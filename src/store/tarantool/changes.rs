//! What a commit is given of consumers, and what it answers.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, IgnoredAny, SeqAccess, Visitor},
};
use serde_bytes::ByteBuf;

use super::{answers::read_subject, wire::LetterOut};
use crate::{
    block::guard::{RecordAt, Refusal},
    error::Result,
    store::Raised,
};

/// The rows that steps of one consumer change: see `CHANGE` in consumer.lua.
#[derive(Default, Serialize)]
pub(super) struct Change {
    /// `None` for a consumer that lives in this broker alone.
    pub(super) name: Option<String>,
    pub(super) version: u64,
    pub(super) cursor: Option<ByteBuf>,
    #[serde(serialize_with = "as_list")]
    pub(super) pages: BTreeMap<u64, Option<ByteBuf>>,
    pub(super) letters: Vec<LetterOut>,
    pub(super) broker: u64,
    pub(super) joined: Vec<u64>,
    pub(super) left: Vec<u64>,
    pub(super) rings: bool,
}

fn as_list<S: serde::Serializer>(pages: &BTreeMap<u64, Option<ByteBuf>>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(pages)
}

/// What became of a group.
pub(super) enum CommitAnswer {
    Stored {
        firsts: Vec<u64>,
        /// Whether each ack was taken; the position, or the last sequence that it lies beyond.
        positions: Vec<(bool, u64)>,
        applied: Vec<Applied>,
        raised: Vec<(String, u64)>,
    },
    Refused(Vec<RefusedRow>),
}

/// A word of consumer.lua, and the next version.
#[derive(Deserialize)]
pub(super) struct Applied {
    pub(super) word: String,
    pub(super) version: u64,
}

#[derive(Deserialize)]
pub(super) struct RefusedRow {
    block: usize,
    record: usize,
    refusal: (String, u64, u64),
}

impl RefusedRow {
    pub(super) fn read(self) -> Option<(RecordAt, Refusal)> {
        let index = |number: u64| usize::try_from(number).ok();
        let (word, first, second) = self.refusal;
        let refusal = match word.as_str() {
            "duplicate" => Refusal::Duplicate(first),
            "expected" => Refusal::Expected(first),
            "follows" => Refusal::Follows(RecordAt { block: index(first)?, record: index(second)? }),
            "gone" => Refusal::UploadGone,
            _ => return None,
        };
        Some((RecordAt { block: self.block, record: self.record }, refusal))
    }
}

pub(super) fn read_raised(raised: Vec<(String, u64)>) -> Result<Raised> {
    raised.into_iter().map(|(name, last)| Ok((read_subject(&name)?, last))).collect()
}

impl<'de> Deserialize<'de> for CommitAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Words)
    }
}

struct Words;

impl<'de> Visitor<'de> for Words {
    type Value = CommitAnswer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what became of a group")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut words: A) -> Result<Self::Value, A::Error> {
        let missing = || de::Error::invalid_length(0, &"what became of a group");
        let word: String = words.next_element()?.ok_or_else(missing)?;
        let answer = match word.as_str() {
            "stored" => CommitAnswer::Stored {
                firsts: words.next_element()?.ok_or_else(missing)?,
                positions: words.next_element()?.ok_or_else(missing)?,
                applied: words.next_element()?.ok_or_else(missing)?,
                raised: words.next_element()?.ok_or_else(missing)?,
            },
            "refused" => CommitAnswer::Refused(words.next_element()?.ok_or_else(missing)?),
            other => return Err(de::Error::unknown_variant(other, &["stored", "refused"])),
        };
        while words.next_element::<IgnoredAny>()?.is_some() {}
        Ok(answer)
    }
}
