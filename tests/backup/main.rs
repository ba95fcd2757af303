//! What keepers of stores do: check and repair, backup and restore, over real stores of both kinds, with the real binary.
#![allow(clippy::unwrap_used)]

mod check;
mod frames;
mod keeper;
mod load;
mod refusals;
mod restore;
mod view;
mod world;
