//! The values every layer speaks of: subjects and filters, names, message drafts, time.

mod draft;
mod filter;
mod hex;
mod name;
mod subject;
pub mod time;

pub use draft::{Draft, Headers, Published, RequestId, Uploaded};
pub use filter::SubjectFilter;
pub use hex::hex;
pub use name::{ConsumerName, DurableName, MessageId, UploadId};
pub use subject::Subject;
pub use time::{Clock, SystemClock, Timestamp, WallClock};
