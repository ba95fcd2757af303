use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    types::{ConsumerName, Subject, SubjectFilter, Timestamp, time},
};

/// How a consumer works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which subjects it consumes.
    pub filter: SubjectFilter,
    /// Where it begins.
    pub start: Start,
    /// How long a delivered message may stay without an answer.
    pub ack_wait: Duration,
    /// After this many attempts a message is given up; 0: never.
    pub max_deliver: u32,
    /// Most messages delivered and not settled, over all workers.
    pub max_ack_pending: usize,
    /// Delays before the second, third, ... delivery of what was refused without a delay; the last one repeats.
    pub back_off: Vec<Duration>,
    /// Where what is given up goes; `None`: nowhere.
    pub dead_letters: Option<Subject>,
    /// How long dead letters live.
    pub dead_letter_ttl: Duration,
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// With the oldest message.
    All,
    /// With what is published from now on.
    New,
    /// With this sequence of its one subject.
    Sequence(u64),
    /// With this stream sequence; one that is not given yet stands for the next.
    StreamSequence(u64),
    /// With what was stored at or after this time, in milliseconds since 1970.
    Time(u64),
}

/// Settings to replace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// See [`Settings`].
    pub filter: Option<SubjectFilter>,
    /// See [`Settings`].
    pub start: Option<Start>,
    /// See [`Settings`].
    pub ack_wait: Option<Duration>,
    /// See [`Settings`].
    pub max_deliver: Option<u32>,
    /// See [`Settings`].
    pub max_ack_pending: Option<usize>,
    /// See [`Settings`].
    pub back_off: Option<Vec<Duration>>,
    /// See [`Settings`].
    pub dead_letters: Option<Subject>,
    /// See [`Settings`].
    pub dead_letter_ttl: Option<Duration>,
}

/// Ack wait of a consumer that names none.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Attempts of a consumer that names no maximum.
const MAX_DELIVER: u32 = 10;
/// Most messages out of a consumer that names no maximum.
const MAX_ACK_PENDING: usize = 10_000;
/// Back-off of a consumer that names none.
const BACK_OFF: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];

/// Shortest ack wait: below, leases would end on their way.
const ACK_WAIT_MIN: Duration = Duration::from_millis(10);
/// Longest ack wait, and longest delay of a redelivery.
pub const WAIT_MAX: Duration = Duration::from_secs(86_400);
/// Most messages out of one consumer: each takes about 150 bytes of memory.
const MAX_ACK_PENDING_MAX: usize = 100_000;
/// Most entries of a back-off list.
const BACK_OFF_LEN_MAX: usize = 32;

impl Settings {
    /// Fills defaults in, and checks all of it. A consumer without a name has no place for dead letters of its own.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every rule that is broken.
    pub fn complete(name: Option<&ConsumerName>, patch: Patch, dead_letter_ttl: Duration) -> Result<Self> {
        let Some(filter) = patch.filter.clone() else {
            return Err(Error::invalid("settings.filter", "is empty: give a subject, or a pattern such as 'orders.>'"));
        };
        let defaults = Self {
            filter,
            start: Start::All,
            ack_wait: ACK_WAIT,
            max_deliver: MAX_DELIVER,
            max_ack_pending: MAX_ACK_PENDING,
            back_off: BACK_OFF.to_vec(),
            dead_letters: name.map(ConsumerName::dead_letters),
            dead_letter_ttl,
        };
        let settings = Self { start: patch.start.unwrap_or(Start::All), ..defaults.with(patch) };
        settings.check()?;
        Ok(settings)
    }

    /// The same with other values; filter and start stay.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every rule that is broken.
    pub fn updated(&self, patch: Patch) -> Result<Self> {
        if patch.filter.as_ref().is_some_and(|filter| *filter != self.filter) {
            let problem = format!("cannot change from '{}': delete the consumer, or make another", self.filter);
            return Err(Error::invalid("settings.filter", problem));
        }
        if patch.start.is_some_and(|start| start != self.start) {
            return Err(Error::invalid("settings.start", "cannot change: reset the consumer to begin elsewhere"));
        }
        let settings = self.clone().with(patch);
        settings.check()?;
        Ok(settings)
    }

    /// The first setting in which a wish differs, if any: `None` for a consumer that is as asked for.
    pub fn differs_from(&self, patch: &Patch) -> Option<&'static str> {
        fn other<T: PartialEq>(wish: Option<&T>, is: &T) -> bool {
            wish.is_some_and(|wish| wish != is)
        }
        let differences = [
            ("filter", other(patch.filter.as_ref(), &self.filter)),
            ("start", other(patch.start.as_ref(), &self.start)),
            ("ack_wait", other(patch.ack_wait.as_ref(), &self.ack_wait)),
            ("max_deliver", other(patch.max_deliver.as_ref(), &self.max_deliver)),
            ("max_ack_pending", other(patch.max_ack_pending.as_ref(), &self.max_ack_pending)),
            ("back_off", other(patch.back_off.as_ref(), &self.back_off)),
            ("dead_letter_subject", patch.dead_letters.is_some() && patch.dead_letters != self.dead_letters),
            ("dead_letter_ttl", other(patch.dead_letter_ttl.as_ref(), &self.dead_letter_ttl)),
        ];
        differences.into_iter().find_map(|(name, differs)| differs.then_some(name))
    }

    fn with(self, patch: Patch) -> Self {
        Self {
            filter: self.filter,
            start: self.start,
            ack_wait: patch.ack_wait.unwrap_or(self.ack_wait),
            max_deliver: patch.max_deliver.unwrap_or(self.max_deliver),
            max_ack_pending: patch.max_ack_pending.unwrap_or(self.max_ack_pending),
            back_off: patch.back_off.unwrap_or(self.back_off),
            dead_letters: patch.dead_letters.or(self.dead_letters),
            dead_letter_ttl: patch.dead_letter_ttl.unwrap_or(self.dead_letter_ttl),
        }
    }

    fn check(&self) -> Result<()> {
        let mut violations = Vec::new();
        let mut refuse = |field: &str, problem: String| {
            violations.push(crate::error::Violation { field: format!("settings.{field}"), problem });
        };
        if self.ack_wait < ACK_WAIT_MIN || self.ack_wait > WAIT_MAX {
            let [given, min, max] = [self.ack_wait, ACK_WAIT_MIN, WAIT_MAX].map(time::show);
            refuse("ack_wait", format!("of {given} is out of range: {min} to {max}"));
        }
        if self.max_ack_pending == 0 || self.max_ack_pending > MAX_ACK_PENDING_MAX {
            refuse("max_ack_pending", format!("{} is out of range: 1 to {MAX_ACK_PENDING_MAX}", self.max_ack_pending));
        }
        if self.back_off.len() > BACK_OFF_LEN_MAX {
            refuse("back_off", format!("has {} delays: at most {BACK_OFF_LEN_MAX} are allowed", self.back_off.len()));
        }
        if let Some(delay) = self.back_off.iter().find(|delay| **delay > WAIT_MAX) {
            let [given, max] = [*delay, WAIT_MAX].map(time::show);
            refuse("back_off", format!("has a delay of {given}: at most {max} are allowed"));
        }
        if let Some(subject) = self.dead_letters.as_ref().filter(|subject| self.filter.matches(subject)) {
            refuse(
                "dead_letter_subject",
                format!("'{subject}' matches the filter '{}': dead letters would come back; give another", self.filter),
            );
        }
        if self.dead_letter_ttl < Duration::from_millis(1) {
            refuse("dead_letter_ttl", "is 0: give at least 1ms".into());
        }
        if let Err(problem) = self.start.fits(&self.filter) {
            refuse("start", problem.into());
        }
        if violations.is_empty() { Ok(()) } else { Err(Error::Invalid(violations)) }
    }

    /// The row's value.
    pub fn to_json(&self) -> Vec<u8> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let stored = Stored {
            filter: self.filter.as_str().into(),
            start: self.start,
            ack_wait_ms: millis(self.ack_wait),
            max_deliver: self.max_deliver,
            max_ack_pending: self.max_ack_pending,
            back_off_ms: self.back_off.iter().map(|delay| millis(*delay)).collect(),
            dead_letters: self.dead_letters.as_ref().map(|subject| subject.as_str().into()),
            dead_letter_ttl_ms: millis(self.dead_letter_ttl),
        };
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    /// Reads what [`to_json`](Self::to_json) wrote; `None` if it is something else.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let stored: Stored = serde_json::from_slice(json).ok()?;
        let dead_letters = match stored.dead_letters {
            Some(subject) => Some(Subject::parse("dead_letters", &subject).ok()?),
            None => None,
        };
        Some(Self {
            filter: SubjectFilter::parse("filter", &stored.filter).ok()?,
            start: stored.start,
            ack_wait: Duration::from_millis(stored.ack_wait_ms),
            max_deliver: stored.max_deliver,
            max_ack_pending: stored.max_ack_pending,
            back_off: stored.back_off_ms.into_iter().map(Duration::from_millis).collect(),
            dead_letters,
            dead_letter_ttl: Duration::from_millis(stored.dead_letter_ttl_ms),
        })
    }
}

impl Start {
    /// Refuses a start that the filter does not allow.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(self, filter: &SubjectFilter) -> Result<()> {
        self.fits(filter).map_err(|problem| Error::invalid("start", problem))
    }

    fn fits(self, filter: &SubjectFilter) -> Result<(), &'static str> {
        match self {
            Self::Sequence(_) if filter.subject().is_none() => {
                Err("by sequence needs one subject: give a stream sequence or a time for a pattern")
            }
            _ => Ok(()),
        }
    }

    /// Begins at a time.
    pub fn at(time: Timestamp) -> Self {
        Self::Time(time.0)
    }
}

/// Settings as they are stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    filter: String,
    start: Start,
    ack_wait_ms: u64,
    max_deliver: u32,
    max_ack_pending: usize,
    back_off_ms: Vec<u64>,
    dead_letters: Option<String>,
    dead_letter_ttl_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(filter: &str) -> Patch {
        Patch { filter: SubjectFilter::parse("filter", filter).ok(), ..Default::default() }
    }

    fn complete(patch: Patch) -> Result<Settings> {
        let name = ConsumerName::parse("name", "billing").unwrap();
        Settings::complete(Some(&name), patch, Duration::from_secs(60))
    }

    #[test]
    fn defaults_are_filled_in_and_survive_the_row() {
        let settings = complete(patch("orders.>")).unwrap();
        assert_eq!(settings.dead_letters.as_ref().unwrap().as_str(), "$dlq.billing");
        assert_eq!(Settings::from_json(&settings.to_json()), Some(settings));
    }

    #[test]
    fn yesterdays_settings_are_read() {
        let json = br#"{"filter":"a.*","start":{"sequence":7},"ack_wait_ms":30000,"max_deliver":3,"max_ack_pending":5,
            "back_off_ms":[1,2],"dead_letters":null,"dead_letter_ttl_ms":9}"#;
        let settings = Settings::from_json(json).unwrap();
        assert_eq!((settings.start, settings.dead_letters), (Start::Sequence(7), None));
        let json = br#"{"filter":"a","start":"all","ack_wait_ms":1,"max_deliver":0,"max_ack_pending":5,
            "back_off_ms":[],"dead_letters":"b","dead_letter_ttl_ms":9}"#;
        assert_eq!(Settings::from_json(json).unwrap().start, Start::All);
        assert_eq!(Settings::from_json(b"{}"), None);
    }

    #[test]
    fn every_broken_rule_is_reported() {
        let broken = Patch {
            ack_wait: Some(Duration::ZERO),
            max_ack_pending: Some(0),
            back_off: Some(vec![Duration::from_secs(90_000); 33]),
            dead_letters: Subject::parse("subject", "orders.dead").ok(),
            start: Some(Start::Sequence(1)),
            ..patch("orders.>")
        };
        insta::assert_snapshot!(complete(broken).unwrap_err().to_string());
        assert!(complete(Patch::default()).unwrap_err().to_string().contains("filter is empty"));
    }

    #[test]
    fn dead_letters_never_come_back_by_the_filter() {
        let to = |filter: &str, subject: &str| {
            complete(Patch { dead_letters: Subject::parse("subject", subject).ok(), ..patch(filter) })
        };
        assert!(to("orders", "orders").is_err());
        assert!(to("$dlq.>", "$dlq.billing").is_err());
        assert!(to("orders.*", "orders-dead").is_ok());
        assert!(complete(patch(">")).is_ok(), "the default is matched by no wildcard in the first place");
    }
}
