//! Messages over HTTP, as `curl` and browsers send and take them.
#![allow(clippy::unwrap_used)]

mod curl;
mod guards;
mod publish;
mod read;
mod resume;
