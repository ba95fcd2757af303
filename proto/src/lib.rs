//! The wire API of MiniToolStream.
//!
//! Everything here is generated from `minitoolstream/*.proto`, which carry the documentation of each call and field.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

tonic::include_proto!("minitoolstream");

/// The encoded `FileDescriptorSet` of the API, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
