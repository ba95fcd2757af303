//! What both stores promise, whatever they are made of.

pub(crate) mod blocks;
pub(crate) mod bytes;
pub(crate) mod consumers;
pub(crate) mod expiry;
pub(crate) mod guards;
pub(crate) mod ids;
pub(crate) mod letters;
pub(crate) mod payloads;
pub(crate) mod positions;
pub(crate) mod purge;
pub(crate) mod schedule;
pub(crate) mod sequences;
pub(crate) mod starts;
pub(crate) mod stream;
pub(crate) mod subjects;
pub(crate) mod uploads;
