//! What keepers of stores do: check and repair, backup and restore, over real stores of both kinds, with the real binary.
#![allow(clippy::unwrap_used)]

mod check;
mod keeper;
