//! The gRPC surface: converts, asks the broker, and puts answers on the wire.

mod admin;
mod age;
mod connection;
mod consume;
mod consumers;
mod deadline;
mod draining;
mod egress;
mod fetch;
mod follow;
mod handshake;
mod inflow;
mod ingress;
mod outlet;
mod publish_stream;
mod reading;
pub mod server;
mod status;
mod upload;

use crate::broker::{Broker, validate};
