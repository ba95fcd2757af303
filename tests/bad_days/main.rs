//! What goes wrong outside the broker: damaged files, full disks, slow clients, bad requests, clocks, restarts.
#![allow(clippy::unwrap_used)]

mod age;
mod api;
mod clock;
mod damage;
mod disk;
mod drain;
mod guards;
mod limits;
mod sequences;
mod slow;
mod stalled;
mod ttl;
mod verify;
