//! Client of [MiniToolStream](https://github.com/minitoolstream/minitoolstream), a message stream for messages of any
//! size.
//!
//! Publish, and know that what was acknowledged is on stable storage:
//!
//! ```no_run
//! # async fn example() -> Result<(), minitoolstream_client::Error> {
//! use minitoolstream_client::{Client, NewMessage};
//!
//! let client = Client::connect("http://127.0.0.1:50051").await?;
//! let publisher = client.publisher();
//! let ack = publisher.publish(NewMessage::new("orders.new", "42 apples").header("unit", "kg")).await?;
//! println!("stored as {}", ack.sequence);
//! # Ok(())
//! # }
//! ```
//!
//! Read what a durable consumer has not acknowledged yet, and acknowledge it:
//!
//! ```no_run
//! # async fn example() -> Result<(), minitoolstream_client::Error> {
//! use minitoolstream_client::{Client, Fetch};
//! use tokio_stream::StreamExt;
//!
//! let client = Client::connect("http://127.0.0.1:50051").await?;
//! let mut messages = client.fetch(Fetch::durable("orders.new", "billing").limit(100)).await?;
//! while let Some(message) = messages.next().await {
//!     let message = message?;
//!     println!("{}: {} bytes", message.sequence, message.size());
//!     client.ack("billing", "orders.new", message.sequence).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` has both as programs. Connections are made when needed, and made again with a jittered back-off. What can be repeated safely is repeated:
//! reads, acks, and publishes that carry a message id.

mod backoff;
mod client;
mod connect;
mod error;
mod message;
mod publisher;
mod stream;

pub use backoff::Backoff;
pub use client::{Client, Subjects};
pub use connect::Connect;
pub use error::{Error, Result};
pub use message::{Fetch, Message, NewMessage, Published};
/// The generated API underneath, for calls that this library does not wrap.
pub use minitoolstream_proto as proto;
pub use publisher::{Pending, Publisher, PublisherOptions};
pub use stream::{Messages, Notifications};
