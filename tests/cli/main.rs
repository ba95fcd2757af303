//! The command line, as its users see it: the real binary against a real broker, its text and its JSON.
#![allow(clippy::unwrap_used)]

mod bench;
mod check;
mod command;
mod config;
mod consume;
mod consumer;
mod exec;
mod fetch;
mod file_tree;
mod follow;
mod following;
mod help;
mod letters;
mod patterns;
mod publish;
mod refusals;
mod schedule;
mod serve;
mod subjects;
mod tree;
mod upload;
