//! What goes wrong outside the broker: damaged files, full disks, slow clients, bad requests, clocks, restarts.
#![allow(clippy::unwrap_used)]

mod api;
mod damage;
mod limits;
mod verify;
