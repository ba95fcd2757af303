//! The labels of series and their values. Every label has a fixed set of them or a limit on their number.

/// A label, as the reference page tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Which metrics are meant, where two use the name for different things; empty elsewhere.
    pub of: &'static str,
    /// Its values and what they mean; the meaning may be empty.
    pub values: &'static [(&'static str, &'static str)],
    /// What other values it has, if its values are not a fixed set.
    pub others: &'static str,
}

impl Label {
    /// A label with a fixed set of values.
    const fn closed(name: &'static str, values: &'static [(&'static str, &'static str)]) -> Self {
        Self { name, of: "", values, others: "" }
    }

    /// A label whose values are not all known beforehand.
    const fn open(name: &'static str, others: &'static str, values: &'static [(&'static str, &'static str)]) -> Self {
        Self { name, of: "", values, others }
    }

    /// The same, for some metrics only.
    const fn of(self, of: &'static str) -> Self {
        Self { of, ..self }
    }

    /// True if a series may have this value.
    pub fn allows(&self, value: &str) -> bool {
        !self.others.is_empty() || self.values.iter().any(|(known, _)| *known == value)
    }
}

/// The values of a label as a type, each with its word and what the reference page says of it.
macro_rules! values {
    ($(#[doc = $about:literal])+ $name:ident { $(#[doc = $doc:literal] $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $(#[doc = $doc] $variant,)+ }

        impl $name {
            /// All of them, in the order of the reference page.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Their words and meanings.
            const TABLE: &[(&'static str, &'static str)] = &[$(($word, $doc)),+];

            /// Its word.
            pub const fn as_str(self) -> &'static str {
                Self::TABLE[self as usize].0
            }
        }
    };
}

values! {
    /// What an instance of Tarantool is to the brokers.
    InstanceState {
        /// takes calls
        Leader = "leader",
        /// follows it
        Follower = "follower",
        /// gives no answer
        Away = "away",
        /// replicates no more from another, which no time heals; also counted as leader or follower
        Stopped = "stopped",
    }
}

values! {
    /// Which side of the broker a series belongs to.
    Service {
        /// publishing
        Ingress = "ingress",
        /// consuming
        Egress = "egress",
    }
}

values! {
    /// What is timed.
    Operation {
        /// ingress
        Publish = "publish",
        /// ingress
        PublishBatch = "publish_batch",
        /// ingress: a frame
        PublishStream = "publish_stream",
        /// ingress: with the time that its pieces take
        Upload = "upload",
        /// ingress: with the time that its body takes
        HttpPut = "http_put",
        /// ingress: the state of an upload
        HttpUpload = "http_upload",
        /// egress: to its end; following reads are not timed
        Fetch = "fetch",
        /// egress
        Ack = "ack",
        /// egress: to its end
        HttpGet = "http_get",
    }
}

impl Operation {
    /// The side of the broker that it belongs to.
    pub const fn service(self) -> Service {
        match self {
            Self::Publish
            | Self::PublishBatch
            | Self::PublishStream
            | Self::Upload
            | Self::HttpPut
            | Self::HttpUpload => Service::Ingress,
            Self::Fetch | Self::Ack | Self::HttpGet => Service::Egress,
        }
    }
}

values! {
    /// Why an actor was rebuilt.
    Cause {
        /// it panicked
        Panic = "panic",
        /// it did not answer a heartbeat
        Hang = "hang",
        /// it ended without a panic: its thread was stopped, or the program is ending
        End = "end",
    }
}

values! {
    /// What a consumer has not done with a message.
    Unsettled {
        /// never delivered
        Pending = "pending",
        /// leased
        Unacked = "unacked",
        /// waiting to be delivered again
        Redeliverable = "redeliverable",
    }
}

values! {
    /// One of the two stores.
    Part {
        /// order, positions, retention
        Metadata = "metadata",
        /// bytes; of the embedded stores, the data directory with both
        Payload = "payload",
    }
}

/// Actors, by the names that their supervisors give them.
pub(super) const ACTORS: &[(&str, &str)] =
    &[("storage", ""), ("publisher", ""), ("reaper", ""), ("scheduler", ""), ("subscriber", "")];

/// Which side.
pub(super) const SERVICE: Label = Label::closed("service", Service::TABLE);
/// Whose messages.
pub(super) const SUBJECT: Label =
    Label::open("subject", "the first `limits.metric_subjects`", &[("other", "all further ones")]);
/// What became of a message.
pub(super) const STATUS: Label = Label::closed(
    "status",
    &[
        ("ok", "stored, delivered"),
        ("duplicate", "recognised by its id: acknowledged and not stored again"),
        ("invalid", "refused for what it is; counted with subject `other`, as the subject may be the fault"),
        ("not_found", ""),
        ("conflict", "the expected last sequence was missed"),
        ("precondition", ""),
        ("exhausted", "over a limit, or without room, at the time"),
        ("unavailable", "a store or an actor did not answer"),
        ("data_loss", "damaged: refused and not served"),
    ],
);
/// What is timed.
pub(super) const OPERATION: Label = Label::closed("operation", Operation::TABLE);
/// Who failed.
pub(super) const ACTOR: Label = Label::closed("actor", ACTORS);
/// Why.
pub(super) const CAUSE: Label = Label::closed("cause", Cause::TABLE);
/// Whose lag.
pub(super) const CONSUMER: Label = Label::open(
    "consumer",
    "the first `limits.metric_consumers` durable consumers by name",
    &[("other", "the sum of the rest")],
);
/// What it has not done.
pub(super) const TARANTOOL_STATE: Label = Label::closed("state", InstanceState::TABLE).of("Tarantool");
pub(super) const STATE: Label = Label::closed("state", Unsettled::TABLE);
/// Which store.
pub(super) const STORE: Label = Label::closed("store", Part::TABLE);
/// Of the program.
pub(super) const VERSION: Label = Label::open("version", "of this program", &[]);
/// What it serves.
pub(super) const ROLE: Label = Label::closed("role", &[("all", ""), ("ingress", ""), ("egress", "")]);
/// What was asked of S3.
pub(super) const S3_OPERATION: Label = Label::closed(
    "operation",
    &[
        ("put", ""),
        ("get", ""),
        ("head", ""),
        ("delete", ""),
        ("delete_many", ""),
        ("list", ""),
        ("create_upload", ""),
        ("upload_part", ""),
        ("complete_upload", ""),
        ("abort_upload", ""),
        ("list_uploads", ""),
        ("create_bucket", ""),
    ],
)
.of("S3");
/// What S3 answered.
pub(super) const CODE: Label = Label::open(
    "code",
    "the status",
    &[
        ("timeout", ""),
        ("connect", "no connection"),
        ("broken", "it broke, or the answer cannot be read"),
        ("short", "an answer with fewer bytes than there are"),
        ("beyond", "a range beyond the object"),
        ("unsendable", ""),
    ],
);
