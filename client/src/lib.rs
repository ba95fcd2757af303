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
//! Share work among the workers of a durable consumer; what fails is delivered again, and in the end dead-lettered:
//!
//! ```no_run
//! # async fn resize(_: bytes::Bytes) -> Result<(), minitoolstream_client::Error> { Ok(()) }
//! # async fn example() -> Result<(), minitoolstream_client::Error> {
//! use minitoolstream_client::{Client, ConsumerSettings};
//!
//! let client = Client::connect("http://127.0.0.1:50051").await?;
//! let consumer = client.consumer("resize").settings(ConsumerSettings::of("photos.>").max_deliver(5));
//! consumer.for_each(8, |photo| async move { resize(photo.data().await?).await }).await
//! # }
//! ```
//!
//! Or take the messages one by one, and answer each:
//!
//! ```no_run
//! # async fn example(client: minitoolstream_client::Client) -> Result<(), minitoolstream_client::Error> {
//! use tokio_stream::StreamExt;
//!
//! let mut deliveries = client.consumer("resize").messages().await?;
//! while let Some(delivery) = deliveries.next().await {
//!     let delivery = delivery?;
//!     println!("{} {}, attempt {}", delivery.message.subject, delivery.message.sequence, delivery.attempt);
//!     delivery.ack().await?;
//! }
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
//! A message of any size is published from a file, a reader or memory, and read as a stream. Both go on after a broken
//! connection, and [`save`](Client::save) goes on after an interruption:
//!
//! ```no_run
//! # async fn example(client: minitoolstream_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use minitoolstream_client::NewMessage;
//!
//! let film = client.upload(NewMessage::new("films", "").header("title", "Nosferatu")).from_file("nosferatu.mkv").await?;
//! let mut reader = client.open(("films", film.sequence)).range(0, 4096).await?;
//! tokio::io::copy(&mut reader, &mut tokio::io::stdout()).await?;
//! client.save(("films", film.sequence), "copy.mkv").await?;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` has these as programs. Connections are made when needed, and made again with a jittered back-off. What can
//! be repeated safely is repeated: reads, acks, uploads, and publishes that carry a message id.

mod administration;
mod answers;
mod attempts;
mod backoff;
mod channels;
mod client;
mod connect;
mod consumer;
mod dead_letters;
mod deliveries;
mod delivery;
mod error;
mod lease;
mod leases;
mod link;
mod message;
mod open;
mod progress;
mod publisher;
mod reader;
mod rotation;
mod save;
mod settings;
mod source;
mod stream;
mod target;
mod upload;
mod uploading;
mod worker;

pub use administration::Consumers;
pub use backoff::Backoff;
pub use client::{Client, Subjects};
pub use connect::Connect;
pub use consumer::Consumer;
pub use dead_letters::Redriven;
pub use deliveries::Deliveries;
pub use delivery::{Delivery, Settled};
pub use error::{Error, Result};
pub use message::{Fetch, Message, NewMessage, Published};
/// The generated API underneath, for calls that this library does not wrap.
pub use minitoolstream_proto as proto;
pub use open::{Open, Wanted};
pub use progress::Progress;
pub use publisher::{Pending, Publisher, PublisherOptions};
pub use reader::Reader;
pub use save::{Save, Saved};
pub use settings::{ConsumerSettings, Start};
pub use stream::{Messages, Notification, Notifications};
pub use upload::{Upload, UploadState, Uploaded};
