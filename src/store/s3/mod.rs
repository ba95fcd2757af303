//! Payload in a bucket of any S3.
//!
//! ```text
//!  segment: all bodies of one commit, stored by one put and never added to        PREFIX segments/0000000000000017
//!  object:  one put, or a multipart upload if it is larger than a part            PREFIX objects/0000000000000018
//!
//!  payload ─▶ object ─▶ parts ─▶ client ─▶ call (what is asked) ─▶ the server
//!                        receipt     └ budget (how often), failure (why not), text (what was answered)
//! ```
//!
//! What is moved or kept aside is below `PREFIX lost+found/`, which no listing of payloads looks into.
//!
//! Relied on: what a put or a completion acknowledged is durable and is read and listed from then on. Not relied on:
//! conditional puts, lifecycle rules, versions, tags, and what an object's ETag is made of.
//!
//! Nothing is left behind: whoever deletes an object also aborts its unfinished uploads, which are found by its key.

mod archive;
mod budget;
mod call;
mod client;
mod failure;
mod keys;
mod object;
mod parts;
mod payload;
mod receipt;
mod settings;
mod signature;
mod text;
mod uploads;

pub use payload::S3Payload;
pub use settings::{PART_MAX, PART_MIN, PART_STEP, PARTS_MAX, Secret, Settings};
