//! What both stores promise, whatever they are made of.

pub(crate) mod blocks;
pub(crate) mod bytes;
pub(crate) mod expiry;
pub(crate) mod guards;
pub(crate) mod ids;
pub(crate) mod payloads;
pub(crate) mod positions;
pub(crate) mod purge;
pub(crate) mod sequences;
pub(crate) mod subjects;
